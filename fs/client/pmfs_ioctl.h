/*
 * pmfs_ioctl.h - the ioctls of a mounted pmfs, on an open file or directory.
 *
 * This is a stable binary interface.  Most programs want pmfs.h, which wraps it.
 *
 * Every structure starts with `version`, which the caller sets to PMFS_ABI_VERSION, and `flags`.
 * Unknown flags, and anything but zero in a field called `reserved`, are EINVAL, so that both can
 * get a meaning later.  All fields are of fixed width and there is no hidden padding: 32-bit
 * programs use the same bytes.  Sizes and offsets are in bytes.  If the comment of a field says so
 * (`bad_offset`), the structure is filled in even when the call fails.
 *
 * A command that this server does not know is ENOTTY, as is any of these on another filesystem.
 */
#ifndef PMFS_IOCTL_H
#define PMFS_IOCTL_H

#include <linux/ioctl.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PMFS_ABI_VERSION 1u
#define PMFS_IOC_MAGIC 0xD5 /* free in the kernel's list of ioctl numbers */

/* fallocate(2) modes that seal and unseal, to be given together with FALLOC_FL_KEEP_SIZE, offset 0
 * and a length that covers the whole file.  Stock kernels refuse them before any filesystem sees
 * them: pmfs_fallocate() in the library then uses the ioctl. */
#define PMFS_FALLOC_FL_SEAL_BLOCK_MAP 0x01000000
#define PMFS_FALLOC_FL_UNSEAL_BLOCK_MAP 0x02000000

/* How far a block map is frozen: docs/seal.md. */
#define PMFS_SEAL_NONE 0u
#define PMFS_SEAL_AS_IS 1u /* as it is: with its holes, unwritten and shared blocks */
#define PMFS_SEAL_FULL 2u  /* and every block allocated, written, private and aligned */

/* --- a file ---------------------------------------------------------------------------------- */

struct pmfs_info {
    uint32_t version; /* in */
    uint32_t flags;   /* in: 0 */
    uint64_t inode;
    uint64_t generation; /* grows when an inode number is reused */
    uint64_t size;
    uint64_t allocated;            /* bytes of the medium that the file owns */
    uint64_t extents;              /* pieces of its block map; 0 for what is not a regular file */
    uint64_t grants;               /* held on it now */
    uint64_t handles_cached;       /* open descriptions that go through the page cache ... */
    uint64_t handles_cached_write; /* ... those of them that may write */
    uint64_t handles_direct;       /* open descriptions that do not */
    uint32_t mode;                 /* as st_mode */
    uint32_t seal;                 /* PMFS_SEAL_* */
    uint8_t digest[32];            /* of the block map as it is now; see docs/format.md */
    uint64_t reserved[4];
};

#define PMFS_EXTENT_UNWRITTEN 1u /* allocated; reads as zeroes */
#define PMFS_EXTENT_SHARED 2u    /* another file refers to these blocks too */

struct pmfs_extent {
    uint64_t offset; /* in the file */
    uint64_t device; /* on the medium */
    uint64_t length;
    uint32_t flags; /* PMFS_EXTENT_* */
    uint32_t reserved;
};

/* One page of a block map, in the order of the file.  Set `from` to 0, then to `next` of the page
 * before, until `next` is 0.  The map of a file that is neither sealed nor granted may change in
 * between. */
#define PMFS_EXTENTS_MAX 500u
struct pmfs_extents {
    uint32_t version; /* in */
    uint32_t flags;   /* in: 0 */
    uint64_t from;    /* in: file offset */
    uint64_t next;    /* file offset of the page after this one; 0: this was the last */
    uint32_t count;   /* extents in this page */
    uint32_t reserved;
    struct pmfs_extent extent[PMFS_EXTENTS_MAX];
};

/* Holders of a file: grants and open handles.  Paged like extents, by `from` and `next`. */
#define PMFS_HOLDER_TEMPORARY 1u /* T */
#define PMFS_HOLDER_BREAKABLE 2u /* B */
#define PMFS_HOLDER_PIN 3u       /* R */
#define PMFS_HOLDER_QUARANTINED                                                                    \
    8u /* lost its grant and may still map; `id` is the quarantine's                               \
        */
#define PMFS_HOLDER_HANDLE_CACHED 16u /* an open description that goes through the page cache */
#define PMFS_HOLDER_HANDLE_DIRECT 17u /* one that does not */

#define PMFS_HOLDER_STORES 1u   /* may store through its mapping; a handle: may write */
#define PMFS_HOLDER_BREAKING 2u /* a lease that is being broken */
#define PMFS_HOLDER_MAPS 4u     /* maps the device */

struct pmfs_holder {
    uint64_t id;     /* of the grant; 0 for a handle */
    uint64_t handle; /* that it belongs to */
    uint64_t offset; /* range; a handle: 0, 0 */
    uint64_t length;
    uint32_t pid; /* of the thread that took it; 0: unknown */
    uint32_t uid;
    uint32_t kind;  /* PMFS_HOLDER_* */
    uint32_t flags; /* PMFS_HOLDER_STORES, ... */
};

#define PMFS_HOLDERS_MAX 300u
struct pmfs_holders {
    uint32_t version; /* in */
    uint32_t flags;   /* in: 0 */
    uint64_t from;    /* in: 0, then `next` */
    uint64_t next;    /* 0: this was the last page */
    uint32_t count;
    uint32_t reserved;
    struct pmfs_holder holder[PMFS_HOLDERS_MAX];
};

/* --- seals ----------------------------------------------------------------------------------- */

struct pmfs_io_seal {
    uint32_t version;
    uint32_t flags; /* 0 */
    uint32_t level; /* PMFS_SEAL_AS_IS or PMFS_SEAL_FULL */
    uint32_t reserved;
    uint64_t bad_offset; /* out, when EINVAL or EBUSY: the first unsuitable offset */
};

struct pmfs_io_unseal {
    uint32_t version;
    uint32_t flags; /* 0 */
};

/* Allocates, writes zeroes to unwritten blocks, unshares, and aligns to `unit`.
 * PMFS_PREPARE_CONTIGUOUS: also makes one extent of the range, at a multiple of 2 MiB; `unit` is 0.
 * No extent is longer than PMFS_CONTIGUOUS_MAX: a longer range becomes one for each of these, from
 * its beginning on.  ENOSPC: there is no place for it, and none can be made. */
#define PMFS_PREPARE_CONTIGUOUS 1u
#define PMFS_CONTIGUOUS_MAX ((uint64_t)1022 << 20)
struct pmfs_io_prepare {
    uint32_t version;
    uint32_t flags; /* 0, PMFS_PREPARE_CONTIGUOUS */
    uint64_t offset;
    uint64_t length; /* 0: to the end of the file */
    uint64_t unit;   /* a power of two; 0: 2 MiB if the file is that large, else the mapping unit */
};

/* --- grants ---------------------------------------------------------------------------------- */

#define PMFS_GRANT_TEMPORARY 1u
#define PMFS_GRANT_BREAKABLE 2u
#define PMFS_GRANT_PIN 3u

#define PMFS_GRANT_STORE 1u  /* the holder may store: needs a handle that may write */
#define PMFS_GRANT_MAP 2u    /* wants the device: a token for the broker's socket */
#define PMFS_GRANT_EVENTS 4u /* a token for a connection that brings events, and no device */
#define PMFS_GRANT_HAND_OVER                                                                       \
    8u /* with MAP: the process that shows the token gets the device.  Only for                    \
          those who may have it themselves */
#define PMFS_GRANT_NOWAIT 16u /* EAGAIN while a lease is being broken, instead of waiting */
#define PMFS_GRANT_FORK                                                                            \
    32u /* with MAP, without STORE, of a file that is sealed full: children may map as well */
#define PMFS_GRANT_CHUNKS                                                                          \
    64u /* the range is rounded out to multiples of 2 MiB, also behind the end of the file */

#define PMFS_MEDIUM_DEVDAX 1u
#define PMFS_MEDIUM_FSDAX 2u
#define PMFS_MEDIUM_MEMORY 3u
#define PMFS_MEDIUM_IMAGE 4u

/* A grant freezes the block map until its handle is closed, it is released, or, with PMFS_GRANT_MAP
 * or PMFS_GRANT_EVENTS, until its connection to the broker ends.  Its token can be used for one
 * connection, by the process that took the grant, within a few seconds; if it is not used, the
 * grant ends.  docs/seal.md says what each kind prevents.
 *
 * EPERM: the caller is not the owner, the file is not open for writing, and the grant is not a
 * mapping for reading by a process that may have the device.  EBADF: it maps, and the file is not
 * open for reading.  EUSERS: this user, or all users together, have too many grants.  ENOMEM: pins
 * past the user's quota.  EBUSY: the kinds exclude each other, or the file is open through the page
 * cache: at all, if the grant may store; for writing, if it is T or B and the file has holes,
 * unwritten or shared blocks. */
struct pmfs_io_grant {
    uint32_t version;
    uint32_t flags;        /* PMFS_GRANT_STORE, PMFS_GRANT_MAP */
    uint32_t kind;         /* PMFS_GRANT_TEMPORARY, ... */
    uint32_t medium;       /* out: PMFS_MEDIUM_* */
    uint64_t offset;       /* in */
    uint64_t length;       /* in; 0: to the end of the file.  out: what was granted */
    uint64_t bad_offset;   /* out, when EINVAL: the first unsuitable offset */
    uint64_t grant;        /* out: its id */
    uint64_t epoch;        /* out: changes with each start of the server */
    uint64_t mapping_unit; /* out: offsets and lengths of mmap are multiples of it */
    uint64_t device_size;  /* out: size of the medium */
    uint8_t uuid[16];      /* out: of the volume */
    uint8_t token[16];     /* out, with PMFS_GRANT_MAP */
    char broker[112];      /* out, with PMFS_GRANT_MAP: path of the broker's socket */
};

struct pmfs_io_release_grant {
    uint32_t version;
    uint32_t flags; /* 0 */
    uint64_t grant;
};

/* Root only (EPERM).  Ends grants of any holder at once: their event is PMFS_EVENT_ENDED, and what
 * they map is quarantined until it is unmapped.  The file is the one that is open, or the one with
 * the number `inode`, which may have lost its last name.  ENOENT: there is no such grant. */
struct pmfs_io_revoke {
    uint32_t version;
    uint32_t flags; /* 0 */
    uint64_t inode; /* 0: the open file's */
    uint64_t grant; /* the id of one; 0: all of `pid` */
    uint32_t pid;   /* those of this process; 0: of every process */
    uint32_t reserved;
    uint64_t ended; /* out: how many */
};

/* --- quarantine: blocks whose holder lost its grant and may still map them -------------------- */

#define PMFS_QUARANTINE_ALIVE 1u   /* the holder's process exists; else it is gone, or not seen */
#define PMFS_QUARANTINE_STORES 2u  /* it may store */
#define PMFS_QUARANTINE_REVOKED 4u /* a lease that was not given back in time */
#define PMFS_QUARANTINE_MAPPED                                                                     \
    8u /* a process maps: the holder, or one that shares its memory; otherwise unknown */

/* Why the grant was lost. */
#define PMFS_REASON_SERVER_DIED 1u
#define PMFS_REASON_LATE 2u          /* a lease that was not given back in time */
#define PMFS_REASON_REVOKED 3u       /* the administrator ended it (PMFS_IOC_REVOKE) */
#define PMFS_REASON_HANDLE_CLOSED 4u /* under the mapping */
#define PMFS_REASON_CUT_OFF 5u       /* the holder's connection to the broker ended */
#define PMFS_REASON_STILL_MAPPED 6u  /* given back, but a process (a child, say) still maps */

struct pmfs_quarantined {
    uint64_t id;         /* for PMFS_IOC_QUARANTINE_RELEASE */
    uint64_t inode;      /* of the file that has or had the blocks */
    uint64_t held;       /* bytes that are held back: the file has given them up */
    uint64_t total;      /* bytes that the holder maps */
    uint64_t start_time; /* of the process, in clock ticks since boot: field 22 of /proc/PID/stat */
    uint32_t pid;
    uint32_t uid;
    uint32_t flags;  /* PMFS_QUARANTINE_* */
    uint32_t reason; /* PMFS_REASON_*; 0: not known */
};

#define PMFS_QUARANTINE_MAX 200u
struct pmfs_quarantine {
    uint32_t version; /* in */
    uint32_t flags;   /* in: 0 */
    uint64_t from;    /* in: 0, then `next` */
    uint64_t next;    /* 0: this was the last page */
    uint32_t count;
    uint32_t reserved;
    struct pmfs_quarantined entry[PMFS_QUARANTINE_MAX];
};

/* Root only (EPERM).  Only for blocks to which no process stores any more: they become free. */
struct pmfs_io_quarantine_release {
    uint32_t version;
    uint32_t flags; /* 0 */
    uint64_t id;    /* ENOENT: there is none with that number */
};

/* --- the volume: on any open file or directory of it ------------------------------------------ */

#define PMFS_VOLUME_READ_ONLY 1u
#define PMFS_VOLUME_DAMAGED 2u /* a fault or a failed sync made it read-only */
#define PMFS_VOLUME_BROKER 4u  /* direct mappings are available */

struct pmfs_volume {
    uint32_t version;
    uint32_t flags;  /* in: 0; out: PMFS_VOLUME_* */
    uint32_t medium; /* PMFS_MEDIUM_* */
    uint32_t block_size;
    uint64_t size; /* of the region */
    uint64_t mapping_unit;
    uint64_t journal_size;
    uint64_t blocks_total; /* without the filesystem's own fixed blocks */
    uint64_t blocks_free;
    uint64_t blocks_available; /* for data of files */
    uint64_t inodes_used;
    uint64_t inodes_free; /* without the table growing */
    uint64_t chunks;
    uint64_t chunk_size;
    uint64_t tx_last; /* last transaction, and last one that is safe from a power cut */
    uint64_t tx_durable;
    uint64_t epoch;
    uint32_t server_pid;
    uint32_t reserved0;
    uint8_t uuid[16];
    char label[72];       /* ended by a zero */
    char source[512];     /* path of the region; cut off when longer; ended by a zero */
    uint64_t quarantines; /* holders that lost their grants and may still map their blocks */
    uint64_t quarantined; /* bytes that are held back for them */
    uint64_t reserved[6];
};

/* The clients, which send requests: the local mount, and each guest. */
#define PMFS_CLIENT_GUEST 1u

#define PMFS_REQUEST_KINDS 64u
struct pmfs_client {
    uint64_t id;    /* 0: the local mount */
    uint32_t pid;   /* of a guest's virtual machine monitor; 0: none */
    uint32_t flags; /* PMFS_CLIENT_* */
    char name[112]; /* of a guest, the path of its socket; cut off when longer; ended by a zero */
    /* The number of requests by opcode of <linux/fuse.h>; [0]: all others. */
    uint64_t requests[PMFS_REQUEST_KINDS];
};

/* All clients, for root of the host.  Other users get only their own client, without its pid and
 * name. */
#define PMFS_CLIENTS_MAX 20u
struct pmfs_clients {
    uint32_t version; /* in */
    uint32_t flags;   /* in: 0 */
    uint64_t from;    /* in: 0, then `next` */
    uint64_t next;    /* 0: this was the last page */
    uint32_t count;
    uint32_t reserved;
    struct pmfs_client client[PMFS_CLIENTS_MAX];
};

/* Root only (EPERM).  Grows the volume on its medium, which has grown or was larger from the start;
 * in whole chunks.  It is no error if the medium is not larger.  Durable when it returns, and in
 * effect at once.  EINVAL: `size` is less than the volume's; ENOSPC: the medium is not that large;
 * EOPNOTSUPP, ENOMEM: only possible after the volume was mounted again; EROFS; EUCLEAN: the volume
 * is damaged. */
struct pmfs_io_grow {
    uint32_t version;
    uint32_t flags;  /* 0 */
    uint64_t size;   /* in: the wanted size; 0: that of the medium */
    uint64_t before; /* out, also on failure: its size before, */
    uint64_t now;    /* ... its size now, */
    uint64_t medium; /* ... and the size of the medium */
    uint64_t reserved[3];
};

/* Changes settings of the whole volume, and returns them.  Only root may change them (EPERM).
 * Durable when it returns, and in effect at once.  EINVAL: a value is out of range; EROFS; EUCLEAN:
 * the volume is damaged. */
#define PMFS_TUNE_RESERVE 1u /* set `reserve` */

struct pmfs_io_tune {
    uint32_t version;
    uint32_t flags;   /* PMFS_TUNE_RESERVE: what to set; 0: nothing */
    uint32_t reserve; /* in, out: the reserve for root, in ten-thousandths; at most 5000 */
    uint32_t reserved0;
    uint64_t reserved[4];
};

#define PMFS_CHUNK_FREE 0u
#define PMFS_CHUNK_META 1u
#define PMFS_CHUNK_DATA 2u
#define PMFS_CHUNK_MIXED 3u /* metadata and data */

struct pmfs_chunk {
    uint16_t used; /* blocks in use */
    uint8_t kind;  /* PMFS_CHUNK_* */
    uint8_t reserved;
};

#define PMFS_CHUNKS_MAX 4000u
struct pmfs_chunks {
    uint32_t version;
    uint32_t flags; /* in: 0 */
    uint64_t first; /* in: number of the first chunk wanted */
    uint32_t count; /* out: chunks in this page; 0 past the end */
    uint32_t reserved;
    struct pmfs_chunk chunk[PMFS_CHUNKS_MAX];
};

/* Root only (EPERM).  Moves data out of partly used chunks so that they become whole again, for a
 * fraction of a second. Call it first with `from` 0 and, as long as there is more, with the `next`
 * of the last call. */
struct pmfs_io_compact {
    uint32_t version;
    uint32_t flags;  /* 0 */
    uint64_t from;   /* in; EINVAL: the volume has no such group */
    uint64_t next;   /* out */
    uint64_t chunks; /* out: made whole by this call */
    uint64_t moved;  /* out: bytes, also out of chunks that could not be emptied after all */
    uint32_t more;   /* out: 0 when the whole volume is done */
    uint32_t reserved;
};

#define PMFS_IOC_INFO _IOWR(PMFS_IOC_MAGIC, 0x01, struct pmfs_info)
#define PMFS_IOC_EXTENTS _IOWR(PMFS_IOC_MAGIC, 0x02, struct pmfs_extents)
#define PMFS_IOC_HOLDERS _IOWR(PMFS_IOC_MAGIC, 0x03, struct pmfs_holders)
#define PMFS_IOC_SEAL _IOWR(PMFS_IOC_MAGIC, 0x10, struct pmfs_io_seal)
#define PMFS_IOC_UNSEAL _IOW(PMFS_IOC_MAGIC, 0x11, struct pmfs_io_unseal)
#define PMFS_IOC_PREPARE _IOW(PMFS_IOC_MAGIC, 0x12, struct pmfs_io_prepare)
#define PMFS_IOC_GRANT _IOWR(PMFS_IOC_MAGIC, 0x20, struct pmfs_io_grant)
#define PMFS_IOC_RELEASE_GRANT _IOW(PMFS_IOC_MAGIC, 0x21, struct pmfs_io_release_grant)
#define PMFS_IOC_REVOKE _IOWR(PMFS_IOC_MAGIC, 0x22, struct pmfs_io_revoke)
#define PMFS_IOC_QUARANTINE _IOWR(PMFS_IOC_MAGIC, 0x28, struct pmfs_quarantine)
#define PMFS_IOC_QUARANTINE_RELEASE _IOW(PMFS_IOC_MAGIC, 0x29, struct pmfs_io_quarantine_release)
#define PMFS_IOC_VOLUME _IOWR(PMFS_IOC_MAGIC, 0x30, struct pmfs_volume)
#define PMFS_IOC_CHUNKS _IOWR(PMFS_IOC_MAGIC, 0x31, struct pmfs_chunks)
#define PMFS_IOC_CLIENTS _IOWR(PMFS_IOC_MAGIC, 0x32, struct pmfs_clients)
#define PMFS_IOC_GROW _IOWR(PMFS_IOC_MAGIC, 0x38, struct pmfs_io_grow)
#define PMFS_IOC_TUNE _IOWR(PMFS_IOC_MAGIC, 0x39, struct pmfs_io_tune)
#define PMFS_IOC_COMPACT _IOWR(PMFS_IOC_MAGIC, 0x3a, struct pmfs_io_compact)

/* The sizes are the interface: they are part of the command numbers.  FUSE carries at most 16383.
 */
#ifdef __cplusplus
#define PMFS_ABI_SIZE(name, size) static_assert(sizeof(struct name) == (size), #name)
#else
#define PMFS_ABI_SIZE(name, size) _Static_assert(sizeof(struct name) == (size), #name)
#endif
PMFS_ABI_SIZE(pmfs_info, 152);
PMFS_ABI_SIZE(pmfs_extent, 32);
PMFS_ABI_SIZE(pmfs_extents, 32 + 32 * PMFS_EXTENTS_MAX);
PMFS_ABI_SIZE(pmfs_holder, 48);
PMFS_ABI_SIZE(pmfs_holders, 32 + 48 * PMFS_HOLDERS_MAX);
PMFS_ABI_SIZE(pmfs_io_seal, 24);
PMFS_ABI_SIZE(pmfs_io_unseal, 8);
PMFS_ABI_SIZE(pmfs_io_prepare, 32);
PMFS_ABI_SIZE(pmfs_io_grant, 216);
PMFS_ABI_SIZE(pmfs_io_release_grant, 16);
PMFS_ABI_SIZE(pmfs_io_revoke, 40);
PMFS_ABI_SIZE(pmfs_quarantined, 56);
PMFS_ABI_SIZE(pmfs_quarantine, 32 + 56 * PMFS_QUARANTINE_MAX);
PMFS_ABI_SIZE(pmfs_io_quarantine_release, 16);
PMFS_ABI_SIZE(pmfs_volume, 792);
PMFS_ABI_SIZE(pmfs_io_grow, 64);
PMFS_ABI_SIZE(pmfs_io_tune, 48);
PMFS_ABI_SIZE(pmfs_chunk, 4);
PMFS_ABI_SIZE(pmfs_chunks, 24 + 4 * PMFS_CHUNKS_MAX);
PMFS_ABI_SIZE(pmfs_io_compact, 48);
PMFS_ABI_SIZE(pmfs_client, 128 + 8 * PMFS_REQUEST_KINDS);
PMFS_ABI_SIZE(pmfs_clients, 32 + 640 * PMFS_CLIENTS_MAX);
#undef PMFS_ABI_SIZE

#ifdef __cplusplus
}
#endif
#endif
