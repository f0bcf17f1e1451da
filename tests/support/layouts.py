"""Makes OCI layouts of images of one layer, whose bytes the test gives."""
import hashlib
import json
import os

OCI = "application/vnd.oci.image."


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer_type(data):
    """The media type of a layer's bytes."""
    if data[:2] == b"\x1f\x8b":
        return OCI + "layer.v1.tar+gzip"
    return OCI + ("layer.v1.tar+zstd" if data[:4] == b"\x28\xb5\x2f\xfd" else "layer.v1.tar")


class Layout:
    def __init__(self, path):
        self.path = path
        os.makedirs(path + "/blobs/sha256")
        with open(path + "/oci-layout", "w", encoding="utf-8") as f:
            f.write('{"imageLayoutVersion":"1.0.0"}')
        self.manifests = []

    def blob(self, data):
        digest = digest_of(data)
        with open(f"{self.path}/blobs/" + digest.replace(":", "/"), "wb") as f:
            f.write(data)
        return {"digest": digest, "size": len(data)}

    def image(self, tag, blob, diff_id):
        """Returns the layer's digest."""
        return self.image_of(tag, [(blob, diff_id)])[0]

    def image_of(self, tag, layers, config=None):
        """Layers: bytes and diff_id of each, lowest first. Returns their digests."""
        document = self.blob(json.dumps({"architecture": "amd64", "os": "linux", "config": config or {},
                                         "rootfs": {"type": "layers", "diff_ids": [d for _, d in layers]}}).encode())
        described = [dict(self.blob(blob), mediaType=layer_type(blob)) for blob, _ in layers]
        manifest = self.blob(json.dumps({"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
                                         "config": dict(document, mediaType=OCI + "config.v1+json"),
                                         "layers": described}).encode())
        manifest.update(mediaType=OCI + "manifest.v1+json", annotations={"org.opencontainers.image.ref.name": tag})
        self.manifests.append(manifest)
        return [layer["digest"] for layer in described]

    def close(self):
        with open(self.path + "/index.json", "w", encoding="utf-8") as f:
            json.dump({"schemaVersion": 2, "manifests": self.manifests}, f)
