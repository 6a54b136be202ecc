/*
 * pmfs.h - libpmfs: seal the block map of a file, and map the file's blocks from the device itself.
 *
 * Every function gives 0 (or what its comment says) or a negative errno value, and leaves errno
 * itself unspecified.  All are safe to call from several threads; one mapping may be used by many
 * threads and is unmapped by one.  -ENOTTY: the descriptor is not of a mounted pmfs.  The manual:
 * pmfs(3), pmfs_map(3), pmfs_seal(3), pmfs_persist(3).
 */
#ifndef PMFS_H
#define PMFS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "pmfs_ioctl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- files ------------------------------------------------------------------------------------ */

/* open(2) with O_DIRECT and O_CLOEXEC added: a descriptor that bypasses the page cache, as all
 * descriptors of a file must while a grant may store.  Gives the descriptor. */
int pmfs_open(const char *path, int flags, mode_t mode);

/* Information about the file, and its seal. */
int pmfs_query(int fd, struct pmfs_info *out);
/* The volume; `fd` is any file or directory of it. */
int pmfs_query_volume(int fd, struct pmfs_volume *out);

/* Prepares a file to be sealed full and mapped: allocates, writes zeroes to unwritten blocks,
 * aligns to units of `unit` bytes (0: 2 MiB where the file is that large, else the volume's mapping
 * unit). length 0: to the end of the file.  Needs a descriptor open for writing. Works in steps; if
 * it is interrupted (-EINTR) the finished steps remain, and it may be called again. */
int pmfs_prepare(int fd, off_t offset, size_t length, size_t unit);
/* The same, and makes one extent of the range, at a multiple of 2 MiB: what can be mapped by one
 * offset of the device and one length.  One for each PMFS_CONTIGUOUS_MAX of a longer range.  Other
 * files' data may be moved out of the way.  -ENOSPC: there is no place for it, and none can be
 * made.  A signal does not end it. */
int pmfs_prepare_contiguous(int fd, off_t offset, size_t length);

/* Freezes the block map; level: PMFS_SEAL_AS_IS or PMFS_SEAL_FULL.  Needs a descriptor open for
 * writing and the right to seal.  Sealing or unsealing twice gives 0.
 * -EINVAL: not prepared for a full seal (call pmfs_prepare).  -EBUSY: see pmfs_seal(3). */
int pmfs_seal(int fd, unsigned level);
/* -EBUSY while any process holds a grant on the file. */
int pmfs_unseal(int fd);

/* fallocate(2), and the modes PMFS_FALLOC_FL_SEAL_BLOCK_MAP and PMFS_FALLOC_FL_UNSEAL_BLOCK_MAP
 * also on kernels that do not know them. */
int pmfs_fallocate(int fd, int mode, off_t offset, off_t length);

/* --- direct mappings -------------------------------------------------------------------------- */

struct pmfs_map; /* a mapping; opaque */

#define PMFS_MAP_POPULATE 1u /* page tables are filled before it returns */
#define PMFS_MAP_BREAKABLE                                                                         \
    2u                     /* by a breakable lease, not a temporary grant: watch pmfs_map_event    \
                            */
#define PMFS_MAP_PIN 4u    /* by a pin of the range: the rest of the file may change */
#define PMFS_MAP_NOWAIT 8u /* -EAGAIN while a lease is being broken, instead of waiting */
/* Children have the mapping, too (they are killed by SIGSEGV there otherwise).  Only for reading,
 * and only files that are sealed full.  The file stays sealed until the last of them is gone. */
#define PMFS_MAP_FORK 16u

/* Maps [offset, offset + length) of a file from the device, as one contiguous range of addresses.
 * length 0: to the end of the file.  prot: PROT_READ, with or without PROT_WRITE.  While the
 * mapping lives, the file's block map cannot change (a temporary grant).  `fd` may be closed
 * afterwards.  The mapping is not inherited by fork(2), except with PMFS_MAP_FORK.  On failure *out
 * is NULL and nothing is left behind.
 *
 * -EACCES: this user may not have the device; -EBADF: prot does not fit the descriptor; -EBUSY: the
 * file is open through the page cache (`pmfsctl holders`); -EINVAL: the range is not prepared, or
 * not within the file; -EOPNOTSUPP: this mount provides no mappings; -EPERM: this user may only
 * read. */
#ifdef __cplusplus /* a function and a structure of one name, as with stat(2) */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#endif
int pmfs_map(int fd, off_t offset, size_t length, int prot, unsigned flags, struct pmfs_map **out);
#ifdef __cplusplus
#pragma GCC diagnostic pop
#endif

void *pmfs_map_address(const struct pmfs_map *map); /* of `offset` itself, aligned or not */
size_t pmfs_map_length(const struct pmfs_map *map);

/* Events of a holder.  They are reported by a descriptor to poll, never by a signal. */
#define PMFS_EVENT_BREAK 1u /* a process waits: unmap (or end the lease) within `milliseconds` */
#define PMFS_EVENT_ENDED 2u /* the grant has ended: nothing is guaranteed for later stores */
struct pmfs_event {
    uint32_t kind;
    uint32_t milliseconds;
    uint64_t grant;
};

/* A descriptor that becomes readable (POLLIN) when there is an event, and hangs up (POLLHUP) when
 * the grant ended under the mapping: the server stopped or died, the lease was not given back in
 * time, or the administrator revoked it.  It belongs to the mapping: only poll it.  It is made on
 * the first call: -EMFILE, -ENFILE; -ECHILD in a child of the process that mapped, if the parent
 * never called this; -ETIMEDOUT: the server did not answer, and this mapping can get no events any
 * more. */
int pmfs_map_event_fd(const struct pmfs_map *map);
/* The next event, without waiting: -EAGAIN when there is none.  PMFS_EVENT_ENDED stays. */
int pmfs_map_event(const struct pmfs_map *map, struct pmfs_event *out);

/* Makes stores to [offset, offset + length) of the mapping as durable as the medium allows:
 * on device-DAX and fsdax safe from a power cut, with no system call; on an image file by msync(2);
 * on memory nothing is safe from a power cut, and it only orders the stores.  -EINVAL: outside of
 * the mapping. */
int pmfs_persist(const struct pmfs_map *map, size_t offset, size_t length);

/* Ends a mapping and its grant; NULL is allowed. */
int pmfs_unmap(struct pmfs_map *map);

/* Handing over: root takes the grant, and another process, which may not have the device by itself,
 * maps.  That process is given the descriptor of the file (SCM_RIGHTS, or inherited) and the
 * ticket's bytes, and must use them within a few seconds.  A ticket can be used once; the process
 * that uses it is the holder. */
struct pmfs_ticket {
    struct pmfs_io_grant grant;
    uint32_t prot;
    uint32_t flags; /* PMFS_MAP_* */
};
int pmfs_make_ticket(int fd, off_t offset, size_t length, int prot, unsigned flags,
                     struct pmfs_ticket *out);
int pmfs_map_ticket(int fd, const struct pmfs_ticket *ticket, struct pmfs_map **out);

/* For a program that maps by itself, a virtual machine monitor for instance: takes a temporary
 * grant on [offset, offset + length) of a file that is sealed full (length 0: to its end), and
 * gives a descriptor of the device, open for reading only.  This descriptor, and those that keep
 * the grant, stay open over execve(2), so that the program that the caller executes next is the
 * holder.  The grant cannot be given back: it ends with the process, and with all others that have
 * the descriptor or map by it.  It covers whole 2 MiB, as pmfs_prepare_contiguous makes them.
 * Errors as of pmfs_map; -EINVAL: not sealed full, too. */
int pmfs_borrow(int fd, off_t offset, size_t length);

/* --- grants without a mapping ----------------------------------------------------------------- */

/* Takes a grant of PMFS_GRANT_TEMPORARY, _BREAKABLE or _PIN on a range; length 0: to the end of the
 * file.  flags: PMFS_GRANT_STORE, PMFS_GRANT_NOWAIT.  It lives until pmfs_release, or until the
 * last descriptor of this open description is closed. */
int pmfs_grant(int fd, unsigned kind, off_t offset, size_t length, unsigned flags, uint64_t *grant);
int pmfs_release(int fd, uint64_t grant);

/* Pins [offset, offset + length): its blocks stay in place, as pages do under mlock(2). Pins are
 * counted: each must be taken back once.  -ENOMEM: past RLIMIT_MEMLOCK or the mount's quota (bytes
 * that are pinned twice count once); -EPERM: not allowed. */
int pmfs_pin(int fd, off_t offset, size_t length, uint64_t *pin);
int pmfs_unpin(int fd, uint64_t pin);

/* A breakable lease with events.  Root, the owner, and a process that has the file open for writing
 * may take one: no device is handed out.  pmfs_lease_end() is the acknowledgement; take a new one
 * when ready. */
struct pmfs_lease;
#ifdef __cplusplus
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#endif
int pmfs_lease(int fd, off_t offset, size_t length, unsigned flags, struct pmfs_lease **out);
#ifdef __cplusplus
#pragma GCC diagnostic pop
#endif
int pmfs_lease_event_fd(const struct pmfs_lease *lease); /* as pmfs_map_event_fd */
int pmfs_lease_event(const struct pmfs_lease *lease, struct pmfs_event *out);
int pmfs_lease_end(struct pmfs_lease *lease); /* NULL is allowed */

#ifdef __cplusplus
}
#endif
#endif
