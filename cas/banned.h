/* SPDX-License-Identifier: Apache-2.0 */
/* Forced into every file by the Makefile: calls that are bugs by design do not compile. */
#ifndef CAS_BANNED_H
#define CAS_BANNED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef __cplusplus
#pragma GCC poison strcpy strcat sprintf vsprintf gets strtok atoi atol atoll system popen
#pragma GCC poison gmtime localtime ctime asctime
#endif

#endif
