# Varnish as a cache in front of a registry of lamina: copy this file to /etc/varnish/default.vcl,
# set the addresses marked with <--, and try `lamina serve --check-cdn http://registry.example`.
# What may be kept, and for how long, the registry says in Cache-Control.
#
# So that a tag that moved is seen at once, tell lamina of the cache:
#     [purge varnish]
#     url = http://127.0.0.1:6081/
#     method = BAN
#     header = Purge-Key: {key}
vcl 4.1;

import std;

backend registry {
    .host = "127.0.0.1"; # <--
    .port = "5000";      # <-- where lamina serve listens
    .first_byte_timeout = 15m;
    .between_bytes_timeout = 5m;
}

# Who may tell that something changed.
acl purgers {
    "127.0.0.1"; # <--
    "::1";
}

sub vcl_recv {
    if (req.method == "BAN") {
        if (client.ip !~ purgers) {
            return (synth(403, "Not from here"));
        }
        if (req.http.Purge-Key !~ "^[a-zA-Z0-9:._/-]+$") {
            return (synth(400, "Purge-Key is missing"));
        }
        if (std.ban("obj.http.Surrogate-Key ~ (^|\s)" +
                    regsuball(req.http.Purge-Key, "\.", "[.]") + "(\s|$)")) {
            return (synth(200, "Banned"));
        }
        return (synth(400, std.ban_error()));
    }
    # Pushes, passed on while they come.
    if (req.method != "GET" && req.method != "HEAD") {
        return (pass);
    }
    # Several ranges at once are answered by the registry, part by part.
    if (req.http.Range ~ ",") {
        return (pipe);
    }
    # GET of a blob may be redirected, HEAD never.
    if (req.method == "HEAD" && req.url ~ "^/v2/.+/blobs/") {
        return (pass);
    }
    # Also with Authorization: what comes of it is kept only where the registry says "public".
    return (hash);
}

sub vcl_pipe {
    set bereq.http.Connection = "close";
}

# Blobs that all repositories share ([cache] redirect): the signature is no part of the key.
sub vcl_hash {
    if (req.url ~ "^/cas/") {
        hash_data(regsub(req.url, "\?.*$", ""));
        hash_data(req.http.Host);
        return (lookup);
    }
}

sub vcl_backend_response {
    # Whatever an answer to somebody in particular is, it is for nobody else unless it says so.
    if (beresp.http.Cache-Control !~ "(?i)public" ||
        beresp.http.Cache-Control ~ "(?i)private|no-store") {
        set beresp.ttl = 2m; # remembered as not to be kept, so that clients do not queue for it
        set beresp.uncacheable = true;
        return (deliver);
    }
    set beresp.do_gzip = false;
    set beresp.keep = 1d; # to be revalidated by ETag
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.X-Cache = "HIT";
    } else {
        set resp.http.X-Cache = "MISS";
    }
}
