// Explains a verb's errno: by the file's holders, its layout, or its volume.
#include "sentences.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/printable.h"
#include "base/units.h"

namespace pmfs::ctl {
namespace {

const char *kind_of(const pmfs_holder &holder) {
    switch (holder.kind) {
        case PMFS_HOLDER_TEMPORARY:
            return "temporary grant";
        case PMFS_HOLDER_BREAKABLE:
            return "breakable lease";
        case PMFS_HOLDER_PIN:
            return "range pin";
        case PMFS_HOLDER_QUARANTINED:
            return "quarantined mapping";
        case PMFS_HOLDER_HANDLE_CACHED:
            return "open file, cached";
        case PMFS_HOLDER_HANDLE_DIRECT:
            return "open file, direct";
        default:
            return "unknown";
    }
}

std::string holders_of(const File &file) {
    std::vector<pmfs_holder> all;
    if (file.holders(&all) != 0 || all.empty()) return "";
    std::string text = "\nheld by:";
    const pmfs_holder *lost = nullptr;
    for (const pmfs_holder &holder : all) {
        text += "\n  " + describe(holder);
        if (holder.kind == PMFS_HOLDER_QUARANTINED) lost = &holder;
    }
    if (lost != nullptr)
        text += fmt::format(
            "\na quarantine ends by itself when no process maps the blocks any more; only if you "
            "are "
            "sure that no process stores to them, as root: `pmfsctl quarantine --release {} {}`",
            lost->id, file.name());
    return text;
}

// Why a full seal was refused.
std::string unfit(const File &file, std::uint64_t bad_offset) {
    pmfs_info info;
    if (!file.is_regular() || file.info(&info) != 0)
        return fmt::format("{} is not a regular file: only regular files can be sealed",
                           file.name());
    if (info.size == 0)
        return fmt::format("{} is empty: there is no block map to seal", file.name());
    std::vector<pmfs_extent> extents;
    std::string why = "the block is not aligned";
    if (file.extents(&extents) == 0) {
        const pmfs_extent *found = nullptr;
        for (const pmfs_extent &extent : extents)
            if (bad_offset >= extent.offset && bad_offset - extent.offset < extent.length)
                found = &extent;
        if (found == nullptr)
            why = "there is a hole";
        else if (found->flags & PMFS_EXTENT_UNWRITTEN)
            why = "the block was never written";
        else if (found->flags & PMFS_EXTENT_SHARED)
            why = "the block is shared with another file";
    }
    return fmt::format(
        "{} cannot be sealed full: at offset {}, {}; use `pmfsctl seal --prepare {}` to "
        "prepare it, or `--as-is` to seal it as it is",
        file.name(), bad_offset, why, file.name());
}

std::string busy(const File &file, Verb verb) {
    if (verb == Verb::unseal)
        return fmt::format(
            "{} stays sealed: a process maps it or holds a grant on it; `pmfsctl revoke` ends "
            "grants",
            file.name());
    if (verb == Verb::seal)
        return fmt::format(
            "{} cannot be sealed now: a process has it open for writing through the page cache, "
            "or holds a lease on it; close it there, or wait",
            file.name());
    if (verb == Verb::lease)
        return fmt::format(
            "{} cannot be leased now: a process maps it, holds a grant on it, or has it open for "
            "writing through the page cache",
            file.name());
    return fmt::format("{} is in use", file.name());
}

std::string volume_full(const File &file) {
    pmfs_volume volume;
    if (file.volume(&volume) != 0) return fmt::format("{}: the volume is full", file.name());
    return fmt::format("{}: the volume is full: {} bytes are free for data; delete files",
                       file.name(), volume.blocks_available * volume.block_size);
}

// What prepare --contiguous needed, and what there is.
std::string no_run(const File &file) {
    pmfs_info info;
    pmfs_volume volume;
    std::vector<pmfs_chunk> chunks;
    if (file.info(&info) != 0 || file.volume(&volume) != 0 || file.chunks(&chunks) != 0)
        return volume_full(file);
    const std::uint64_t chunk = volume.chunk_size;
    const std::uint64_t most = std::min(info.size, PMFS_CONTIGUOUS_MAX);
    const std::uint64_t wanted = (most + chunk - 1) / chunk;
    if (volume.blocks_available * volume.block_size < wanted * chunk) return volume_full(file);
    const std::uint64_t group = PMFS_CONTIGUOUS_MAX / chunk + 1;  // chunks: no run crosses one
    std::uint64_t free = 0, data = 0, longest_free = 0, longest = 0;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
        if (i % group == 0) free = data = 0;
        free = chunks[i].kind == PMFS_CHUNK_FREE ? free + 1 : 0;
        data = free != 0 || chunks[i].kind == PMFS_CHUNK_DATA ? data + 1 : 0;
        longest_free = std::max(longest_free, free);
        longest = std::max(longest, data);
    }
    return fmt::format(
        "{}: there is no contiguous space of {}: the longest free run is {}, and the longest run "
        "without metadata is {}, in which some data cannot be moved or has nowhere to go; unseal, "
        "unmap or delete files there, or grow the volume",
        file.name(), size_words(wanted * chunk), size_words(longest_free * chunk),
        size_words(longest * chunk));
}

bool map_is_frozen(const File &file) {
    pmfs_info info;
    return file.info(&info) == 0 && (info.seal != PMFS_SEAL_NONE || info.grants != 0);
}

std::string cannot_move(const File &file) {
    return fmt::format(
        "{} is sealed, mapped or leased, so its blocks cannot be moved; `pmfsctl unseal {}` "
        "first, and see `pmfsctl holders`",
        file.name(), file.name());
}

std::string not_allowed(const File &file, Verb verb) {
    if (verb == Verb::lease || verb == Verb::pin)
        return fmt::format(
            "{}: only root, the owner, and users who may write to the file can do that",
            file.name());
    if (verb == Verb::revoke)
        return fmt::format("{}: only root can end grants of others", file.name());
    if (verb == Verb::quarantine)
        return fmt::format("{}: only root can release quarantined blocks", file.name());
    if (verb == Verb::grow || verb == Verb::tune)
        return fmt::format("{}: only root can change the volume as a whole", file.name());
    if (verb == Verb::compact)
        return fmt::format("{}: only root can compact a volume", file.name());
    if (verb != Verb::seal && verb != Verb::unseal)
        return fmt::format("{}: permission denied", file.name());
    return fmt::format(
        "{}: only root can seal and unseal, or the file's owner if the volume is mounted with "
        "-o seal=owner; and the file must not be immutable or append-only (lsattr)",
        file.name());
}

std::string not_here(const File &file, Verb verb) {
    if (verb == Verb::lease)
        return fmt::format(
            "{}: this mount has no leases, because it has no broker to notify their holders (see "
            "its log)",
            file.name());
    return fmt::format("{}: this mount does not support that", file.name());
}

std::string frozen(const File &file) {
    const std::string path = file.name();
    if (file.error() != 0)
        return fmt::format("{} is being executed, so it cannot be opened for writing", path);
    return fmt::format(
        "{} is sealed or mapped, so its block map cannot change; `pmfsctl unseal {}` first", path,
        path);
}

std::string unacceptable(const File &file, Verb verb, std::uint64_t bad_offset) {
    const std::string path = file.name();
    if (verb == Verb::seal) return unfit(file, bad_offset);
    if (!file.is_regular())
        return fmt::format("{} is not a regular file: it has no block map", path);
    if (verb == Verb::lease || verb == Verb::pin)
        return fmt::format(
            "{}: --offset and --length must lie within the file, and the range must be allocated, "
            "written and aligned; use `pmfsctl prepare {}` first",
            path, path);
    if (verb == Verb::prepare || verb == Verb::prepare_contiguous) {
        if (map_is_frozen(file)) return cannot_move(file);
        return fmt::format(
            "{}: --offset and --length must lie within the file, and --unit must be a power of two "
            "from the volume's mapping unit to 64 MiB",
            path);
    }
    return fmt::format("{}: {}", path, std::strerror(EINVAL));
}

std::string sentence(const File &file, Verb verb, int error, std::uint64_t bad_offset) {
    const std::string path = file.name();
    const bool holds = verb == Verb::lease || verb == Verb::pin;
    const bool seals = verb == Verb::seal || verb == Verb::unseal || holds;
    switch (error) {
        case ENOTTY:
            return fmt::format("{} is not on a mounted pmfs volume", path);
        case ENOTCONN:
            return fmt::format(
                "{}: the server of this mount has ended; run `umount -l` on the mount point and "
                "mount "
                "the volume again",
                path);
        case ETXTBSY:
            return frozen(file);
        case EBUSY:
            return busy(file, verb) + holders_of(file);
        case EACCES:
            if (verb != Verb::run || file.error() != 0) break;
            return fmt::format(
                "{}: only root may map the device, and members of the group given at mount "
                "(-o group=)",
                path);
        case EPERM:
            return not_allowed(file, verb);
        case EROFS:
            return fmt::format("{}: the volume is read-only; see `pmfsctl status`", path);
        case ENOSPC:
            return verb == Verb::prepare_contiguous ? no_run(file) : volume_full(file);
        case ENOMEM:
            if (verb != Verb::pin) break;
            return fmt::format(
                "{}: the user's limit on pinned memory would be exceeded: `ulimit -l`, or the "
                "mount "
                "option pin_quota=",
                path);
        case EAGAIN:
            if (!holds) break;
            return fmt::format("{}: a lease of it is being broken for another process; try again",
                               path);
        case ENOENT:
            if (verb == Verb::revoke && file.error() == 0)
                return fmt::format("{}: there is no such grant; see `pmfsctl holders {}`", path,
                                   path);
            if (verb != Verb::quarantine || file.error() != 0) break;
            return fmt::format(
                "{}: there is no quarantine with this number; see `pmfsctl quarantine`", path);
        case EISDIR:
            return fmt::format("{} is a directory: only regular files have a block map", path);
        case EOPNOTSUPP:
            if (verb == Verb::run)
                return fmt::format(
                    "{}: this mount hands out no mappings, or its medium cannot tell which "
                    "processes map "
                    "it (see its log)",
                    path);
            if (!seals) break;
            return not_here(file, verb);
        case EUCLEAN:
            return fmt::format("{}: the volume is damaged here; unmount it and run fsck.pmfs",
                               path);
        case EINVAL:
            return unacceptable(file, verb, bad_offset);
        default:
            break;
    }
    return fmt::format("{}: {}", path, std::strerror(error));
}

}  // namespace

std::string describe(const pmfs_holder &holder) {
    const Process process = process_of_thread(holder.pid);
    std::string who = "an unknown process";
    if (process.pid != 0)
        who = fmt::format("process {} ({})", process.pid, printable(process.name));
    else if (holder.pid != 0)
        who = fmt::format("process {} (gone)", holder.pid);
    std::string text = fmt::format("{} of {}, user {}", kind_of(holder), who, holder.uid);
    const bool handle = holder.kind >= PMFS_HOLDER_HANDLE_CACHED;
    if (!handle)
        text += fmt::format(", bytes {} to {}", holder.offset, holder.offset + holder.length);
    if (holder.flags & PMFS_HOLDER_MAPS) text += ", mapped";
    if (holder.flags & PMFS_HOLDER_STORES) text += handle ? ", for writing" : ", stores";
    if (holder.flags & PMFS_HOLDER_BREAKING) text += ", asked to give it back";
    return text;
}

int complain(const File &file, Verb verb, int error, std::uint64_t bad_offset) {
    const std::string text = sentence(file, verb, error, bad_offset);
    fmt::print(stderr, "pmfsctl: {}\n", text);
    return kFailed;
}

}  // namespace pmfs::ctl
