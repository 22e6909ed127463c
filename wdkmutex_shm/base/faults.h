/* Faults on purpose, to show that the tools which look for faults find them.
 *
 * A build with WDKMUTEX_PLANTS=1 in its environment carries them, and WDKMUTEX_PLANT=<name> in the environment of a process
 * switches one on there. In every other build this is the constant 0, and the compiler drops what depends on it.
 */
#ifndef WDKM_PLANTED_H
#define WDKM_PLANTED_H

#ifdef WDKMUTEX_PLANTS
#include <stdlib.h>
#include <string.h>
static int wdkm_planted(const char *fault) {
    static const char *planted = NULL;
    if (planted == NULL) {
        planted = getenv("WDKMUTEX_PLANT");
        if (planted == NULL) planted = "";
    }
    return strcmp(planted, fault) == 0;
}
#define WDKM_PLANTS 1
#else
#define wdkm_planted(fault) ((void)(fault), 0)
#define WDKM_PLANTS 0
#endif

#endif
