/*
 * claims.h - what a program in a guest says, for the rig to count: one line "PASS words" or
 * "FAIL words: why" for each claim.  For programs of one source file, with _GNU_SOURCE.
 */
#ifndef RIG_CLAIMS_H
#define RIG_CLAIMS_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *g_where = ""; /* stands before every claim */
static int g_failed;

static inline void claim(const char *words, bool holds, const char *why) {
    if (!holds) ++g_failed;
    printf(holds ? "PASS %s%s\n" : "FAIL %s%s: %s\n", g_where, words, why);
    fflush(stdout);
}

/* The result of a system call: -1 with this errno; or, with 0, anything else. */
static inline void expect(const char *words, long result, int wanted) {
    const int error = result < 0 ? errno : 0;
    char why[128];
    snprintf(why, sizeof why, "%s instead of %s", error == 0 ? "success" : strerrorname_np(error),
             wanted == 0 ? "success" : strerrorname_np(wanted));
    claim(words, error == wanted, why);
}

/* The result; a failure ends the program. */
static inline int need(long result, const char *what) {
    if (result >= 0) return (int)result;
    printf("FAIL %s%s: %s\n", g_where, what, strerror(errno));
    exit(1);
}

#endif
