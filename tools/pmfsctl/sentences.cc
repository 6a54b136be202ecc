// From a verb and an errno to what is in the way: its holders, its layout, its volume.
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
            "\nwhat is quarantined ends by itself when nobody maps it any more; if you know that "
            "nobody stores there, as root: `pmfsctl quarantine --release {} {}`",
            lost->id, file.name());
    return text;
}

// Why a full seal was refused.
std::string unfit(const File &file, std::uint64_t bad_offset) {
    pmfs_info info;
    if (!file.is_regular() || file.info(&info) != 0)
        return fmt::format("{} is not a regular file: only those can be sealed", file.name());
    if (info.size == 0)
        return fmt::format("{} is empty: there is no block map to seal", file.name());
    std::vector<pmfs_extent> extents;
    std::string why = "its block is not aligned";
    if (file.extents(&extents) == 0) {
        const pmfs_extent *found = nullptr;
        for (const pmfs_extent &extent : extents)
            if (bad_offset >= extent.offset && bad_offset - extent.offset < extent.length)
                found = &extent;
        if (found == nullptr)
            why = "there is a hole";
        else if (found->flags & PMFS_EXTENT_UNWRITTEN)
            why = "its block was never written";
        else if (found->flags & PMFS_EXTENT_SHARED)
            why = "its block is shared with another file";
    }
    return fmt::format(
        "{} cannot be sealed full: at offset {}, {}; `pmfsctl seal --prepare {}` "
        "sees to that, `--as-is` seals it as it is",
        file.name(), bad_offset, why, file.name());
}

std::string busy(const File &file, Verb verb) {
    if (verb == Verb::unseal)
        return fmt::format(
            "{} stays sealed: somebody maps it or holds a grant on it; `pmfsctl revoke` ends "
            "grants",
            file.name());
    if (verb == Verb::seal)
        return fmt::format(
            "{} cannot be sealed now: somebody has it open for writing through the "
            "page cache, or holds a lease on it; close it there, or wait",
            file.name());
    if (verb == Verb::lease)
        return fmt::format(
            "{} cannot be leased now: somebody maps it, holds a grant on it, or has it open for "
            "writing through the page cache",
            file.name());
    return fmt::format("{} is in use", file.name());
}

std::string volume_full(const File &file) {
    pmfs_volume volume;
    if (file.volume(&volume) != 0) return fmt::format("{}: the volume is full", file.name());
    return fmt::format("{}: the volume is full: {} bytes are free for data; delete something",
                       file.name(), volume.blocks_available * volume.block_size);
}

// What prepare --contiguous looked for, and what there is.
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
        "{}: there is no place for {} in a row: the longest free run is {}, and the longest "
        "without "
        "metadata {}, of which something cannot be moved or finds no room; unseal, unmap or delete "
        "what lies there, or grow the volume",
        file.name(), size_words(wanted * chunk), size_words(longest_free * chunk),
        size_words(longest * chunk));
}

bool stands(const File &file) {
    pmfs_info info;
    return file.info(&info) == 0 && (info.seal != PMFS_SEAL_NONE || info.grants != 0);
}

std::string stands_still(const File &file) {
    return fmt::format(
        "{} is sealed, mapped or leased, so its blocks stay where they are; `pmfsctl unseal {}` "
        "first, and see `pmfsctl holders`",
        file.name(), file.name());
}

std::string not_allowed(const File &file, Verb verb) {
    if (verb == Verb::lease || verb == Verb::pin)
        return fmt::format("{}: that is for root, for its owner, and for those who may write to it",
                           file.name());
    if (verb == Verb::revoke)
        return fmt::format("{}: only root ends what others hold", file.name());
    if (verb == Verb::quarantine)
        return fmt::format("{}: only root can vouch that nobody stores to those blocks any more",
                           file.name());
    if (verb == Verb::grow || verb == Verb::tune)
        return fmt::format("{}: only root changes the volume as a whole", file.name());
    if (verb == Verb::compact) return fmt::format("{}: only root compacts a volume", file.name());
    if (verb != Verb::seal && verb != Verb::unseal)
        return fmt::format("{}: you may not do that", file.name());
    return fmt::format(
        "{}: sealing and unsealing is for root, or for the file's owner where the "
        "volume is mounted with -o seal=owner",
        file.name());
}

std::string not_here(const File &file, Verb verb) {
    if (verb == Verb::lease)
        return fmt::format(
            "{}: no leases on this mount: it has no broker to tell their holders (its log says "
            "why)",
            file.name());
    return fmt::format("{}: this mount does not do that", file.name());
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
            "{}: --offset and --length must lie within the file, and all of it be allocated and "
            "written; `pmfsctl prepare {}` sees to that",
            path, path);
    if (verb == Verb::prepare || verb == Verb::prepare_contiguous) {
        if (stands(file)) return stands_still(file);
        return fmt::format(
            "{}: --offset and --length must lie within the file, and --unit be a power of two "
            "that the volume can do",
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
                "{}: the server of this mount is gone; `umount -l` it and mount the "
                "volume again",
                path);
        case ETXTBSY:
            return frozen(file);
        case EBUSY:
            return busy(file, verb) + holders_of(file);
        case EACCES:
            if (verb != Verb::run || file.error() != 0) break;
            return fmt::format(
                "{}: the device is for root, and for the group that the volume was mounted for "
                "(-o group=)",
                path);
        case EPERM:
            return not_allowed(file, verb);
        case EROFS:
            return fmt::format("{}: the volume is read-only; `pmfsctl status` may say why", path);
        case ENOSPC:
            return verb == Verb::prepare_contiguous ? no_run(file) : volume_full(file);
        case ENOMEM:
            if (verb != Verb::pin) break;
            return fmt::format("{}: past what the user may pin: `ulimit -l`, or -o pin_quota=",
                               path);
        case EAGAIN:
            if (!holds) break;
            return fmt::format("{}: somebody is waiting for a lease of it to end; try again", path);
        case ENOENT:
            if (verb == Verb::revoke && file.error() == 0)
                return fmt::format("{}: nobody holds such a grant; `pmfsctl holders {}`", path,
                                   path);
            if (verb != Verb::quarantine || file.error() != 0) break;
            return fmt::format("{}: nothing of that number is quarantined", path);
        case EISDIR:
            return fmt::format("{} is a directory: only regular files have a block map", path);
        case EOPNOTSUPP:
            if (verb == Verb::run)
                return fmt::format(
                    "{}: this mount hands out no mappings, or its medium cannot tell who maps it "
                    "(its log says which)",
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
    if (holder.flags & PMFS_HOLDER_BREAKING) text += ", asked to go";
    return text;
}

int complain(const File &file, Verb verb, int error, std::uint64_t bad_offset) {
    const std::string text = sentence(file, verb, error, bad_offset);
    fmt::print(stderr, "pmfsctl: {}\n", text);
    return kFailed;
}

}  // namespace pmfs::ctl
