// The ioctls on the server's side: see ioctl.h.  Each is a small function that fills in its
// structure; the table at the end lists them.
#include "front/requests/ioctl.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <unordered_set>

#include "client/pmfs_ioctl.h"
#include "front/broker/broker.h"
#include "front/requests/ioctl_job.h"
#include "media/format.h"
#include "media/geometry.h"

namespace pmfs::front {
namespace {

Result<> check_version(std::uint32_t version) {
    if (version != PMFS_ABI_VERSION)
        return Error(EINVAL, "this version of the interface is unknown");
    return {};
}

Result<> check_zero(std::uint64_t value) {
    if (value != 0) return Error(EINVAL, "a flag is unknown, or a reserved field is not zero");
    return {};
}

template <std::size_t N>
Result<> check_zero(const std::uint64_t (&values)[N]) {
    for (const std::uint64_t value : values) TRY(check_zero(value));
    return {};
}

void copy_text(std::span<char> to, std::string_view from) {
    const std::size_t size = std::min(from.size(), to.size() - 1);
    std::memset(to.data(), 0, to.size());
    std::memcpy(to.data(), from.data(), size);
}

std::uint32_t medium_of(const Volume &volume) {
    switch (volume.region().kind()) {
        case pm::MediumKind::devdax:
            return PMFS_MEDIUM_DEVDAX;
        case pm::MediumKind::fsdax:
            return PMFS_MEDIUM_FSDAX;
        case pm::MediumKind::memory:
            return PMFS_MEDIUM_MEMORY;
        case pm::MediumKind::image:
            return PMFS_MEDIUM_IMAGE;
    }
    return 0;
}

std::uint32_t seal_number(SealLevel level) {
    switch (level) {
        case SealLevel::none:
            return PMFS_SEAL_NONE;
        case SealLevel::as_is:
            return PMFS_SEAL_AS_IS;
        case SealLevel::full:
            return PMFS_SEAL_FULL;
    }
    return PMFS_SEAL_NONE;
}

Result<> need_regular(const Job &job) {
    const Attr attr = TRY(job.context.volume.getattr(job.ino));
    if (!S_ISREG(attr.mode)) return Error(EINVAL, "only a regular file has a block map");
    return {};
}

// The handle must belong to the file and to the client: a guest may send any pair of numbers.
Result<HandleInfo> need_handle(const Job &job) {
    return job.context.client.check_handle(job.handle, job.ino, false);
}

Result<> need_write_handle(const Job &job) {
    if (!TRY(need_handle(job)).write) return Error(EBADF, "the file is not open for writing");
    return {};
}

// --- information ------------------------------------------------------------------------------

Result<std::size_t> info(Job &job, pmfs_info &io) {
    TRY(check_zero(io.flags));
    TRY(check_zero(io.reserved));
    const FileInfo file = TRY(job.context.volume.file_info(job.ino, &job.progress));
    io.inode = file.attr.ino.value();
    io.generation = file.attr.generation;
    io.size = file.attr.size;
    io.allocated = file.attr.blocks * media::kBlockSize;
    io.extents = file.extents;
    io.grants = file.grants;
    io.handles_cached = file.handles_cached;
    io.handles_cached_write = file.handles_cached_write;
    io.handles_direct = file.handles_direct;
    io.mode = file.attr.mode;
    io.seal = seal_number(file.seal);
    std::memcpy(io.digest, file.digest, sizeof io.digest);
    return kAll;
}

Result<std::size_t> extents(Job &job, pmfs_extents &io) {
    TRY(check_zero(io.flags));
    TRY(check_zero(io.reserved));
    TRY(need_regular(job));
    std::array<Extent, PMFS_EXTENTS_MAX> page;
    const FileBlock from = media::file_block_of(io.from);
    const std::size_t count = TRY(job.context.volume.extents(InodeNo(job.ino), from, page));
    PMFS_ASSERT(count <= page.size());
    io.count = static_cast<std::uint32_t>(count);
    io.next = 0;
    for (std::size_t i = 0; i < count; i++) {
        const Extent &extent = page[i];
        io.extent[i] = {.offset = media::byte_of(extent.file_block),
                        .device = media::byte_of(extent.start),
                        .length = extent.blocks * media::kBlockSize,
                        .flags = (extent.unwritten ? PMFS_EXTENT_UNWRITTEN : 0) |
                                 (extent.shared ? PMFS_EXTENT_SHARED : 0),
                        .reserved = 0};
    }
    if (count == page.size()) io.next = io.extent[count - 1].offset + io.extent[count - 1].length;
    return offsetof(pmfs_extents, extent) + count * sizeof(pmfs_extent);
}

// A client sees its own user ids, and process numbers of its own machine only.
Result<std::vector<pmfs_holder>> all_holders(Job &job) {
    const Client &client = job.context.client;
    const auto user = [&client](std::uint32_t uid) { return client.policy().users.out(uid); };
    const auto handles = TRY(job.context.volume.handles(job.ino));
    std::unordered_set<HandleId> own_handles;
    for (const HandleInfo &one : handles)
        if (one.opener.client == client.id()) own_handles.insert(one.handle);
    std::vector<pmfs_holder> all;
    for (const Holder &holder : TRY(job.context.volume.holders(job.ino))) {
        const bool own =
            holder.lost ? client.policy().is_host : own_handles.contains(holder.handle);
        all.push_back({.id = holder.grant,
                       .handle = holder.handle,
                       .offset = holder.offset,
                       .length = holder.length,
                       .pid = own ? holder.pid : 0,
                       .uid = user(holder.uid),
                       .kind = holder.lost ? PMFS_HOLDER_QUARANTINED
                                           : static_cast<std::uint32_t>(holder.kind),
                       .flags = (holder.may_store ? PMFS_HOLDER_STORES : 0) |
                                (holder.breaking ? PMFS_HOLDER_BREAKING : 0) |
                                (holder.maps ? PMFS_HOLDER_MAPS : 0)});
    }
    for (const HandleInfo &handle : handles) {
        all.push_back(
            {.id = 0,
             .handle = handle.handle,
             .offset = 0,
             .length = 0,
             .pid = handle.opener.client == client.id() ? handle.opener.pid : 0,
             .uid = user(handle.opener.uid),
             .kind = handle.direct_io ? PMFS_HOLDER_HANDLE_DIRECT : PMFS_HOLDER_HANDLE_CACHED,
             .flags = handle.write ? PMFS_HOLDER_STORES : 0});
    }
    return all;
}

Result<std::size_t> holders(Job &job, pmfs_holders &io) {
    TRY(check_zero(io.flags));
    TRY(check_zero(io.reserved));
    const std::vector<pmfs_holder> all = TRY(all_holders(job));
    const std::uint64_t first = std::min<std::uint64_t>(io.from, all.size());
    const std::size_t count = std::min<std::size_t>(PMFS_HOLDERS_MAX, all.size() - first);
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(first), count, io.holder);
    io.count = static_cast<std::uint32_t>(count);
    io.next = first + count < all.size() ? first + count : 0;
    return offsetof(pmfs_holders, holder) + count * sizeof(pmfs_holder);
}

Result<std::size_t> volume(Job &job, pmfs_volume &io) {
    TRY(check_zero(io.flags));
    TRY(check_zero(io.reserved));
    const VolumeInfo info = job.context.volume.info();
    const Broker *broker = job.context.broker;
    io.flags = (info.read_only ? PMFS_VOLUME_READ_ONLY : 0) |
               (info.damaged ? PMFS_VOLUME_DAMAGED : 0) |
               (broker != nullptr ? PMFS_VOLUME_BROKER : 0);
    io.medium = medium_of(job.context.volume);
    io.block_size = media::kBlockSize;
    io.size = info.size;
    io.mapping_unit = info.mapping_unit;
    io.journal_size = info.journal_size;
    io.blocks_total = info.blocks_total;
    io.blocks_free = info.blocks_free;
    io.blocks_available = info.blocks_available;
    io.inodes_used = info.inodes_used;
    io.inodes_free = info.inodes_available;
    io.chunks = info.chunks;
    io.chunk_size = media::kChunkSize;
    io.tx_last = info.tx_last;
    io.tx_durable = info.tx_durable;
    io.epoch = broker != nullptr ? broker->epoch() : 0;
    // Guests do not learn the host's paths.
    const bool is_host = job.context.client.policy().is_host;
    if (is_host) io.server_pid = static_cast<std::uint32_t>(::getpid());
    std::memcpy(io.uuid, info.uuid, sizeof io.uuid);
    copy_text(io.label, info.label);
    if (is_host) copy_text(io.source, info.source);
    const QuarantineTotal quarantine = TRY(job.context.volume.quarantine_total());
    io.quarantines = quarantine.rows;
    io.quarantined = quarantine.held;
    return kAll;
}

// Only root of this machine learns of other clients, and of paths and processes here.
pmfs_client to_words(const Client &client, bool named) {
    pmfs_client words{};
    words.id = client.id();
    words.flags = client.policy().is_host ? 0 : PMFS_CLIENT_GUEST;
    if (named) {
        words.pid = client.origin().pid;
        copy_text(words.name, client.origin().name);
    }
    static_assert(PMFS_REQUEST_KINDS == Client::kRequestKinds);
    for (std::size_t kind = 0; kind < PMFS_REQUEST_KINDS; ++kind)
        words.requests[kind] = client.requests(kind);
    return words;
}

Result<std::size_t> clients(Job &job, pmfs_clients &io) {
    TRY(check_zero(io.flags));
    TRY(check_zero(io.reserved));
    const Client &asks = job.context.client;
    const bool all = asks.policy().is_host && job.caller.uid == 0;
    io.count = 0;
    io.next = 0;
    for (const auto &client : job.context.clients.present()) {
        if (client->id() < io.from || (!all && client.get() != &asks)) continue;
        if (io.count == PMFS_CLIENTS_MAX) {
            io.next = client->id();
            break;
        }
        io.client[io.count++] = to_words(*client, all);
    }
    return offsetof(pmfs_clients, client) + io.count * sizeof(pmfs_client);
}

Result<std::size_t> quarantine(Job &job, pmfs_quarantine &io) {
    TRY(check_zero(io.flags));
    TRY(check_zero(io.reserved));
    const std::vector<Quarantined> rows =
        TRY(job.context.volume.quarantine(io.from, PMFS_QUARANTINE_MAX, &io.next));
    const std::size_t count = rows.size();
    for (std::size_t i = 0; i < count; ++i) {
        const Quarantined &one = rows[i];
        io.entry[i] = {.id = one.id,
                       .inode = one.file.value(),
                       .held = one.held,
                       .total = one.total,
                       .start_time = one.process.start_time,
                       .pid = one.process.pid,
                       .uid = one.uid,
                       .flags = (one.alive ? PMFS_QUARANTINE_ALIVE : 0) |
                                (one.may_store ? PMFS_QUARANTINE_STORES : 0) |
                                (one.mapped ? PMFS_QUARANTINE_MAPPED : 0) |
                                (one.reason == GrantReason::late ? PMFS_QUARANTINE_REVOKED : 0),
                       .reason = static_cast<std::uint32_t>(one.reason)};
        static_assert(static_cast<unsigned>(GrantReason::still_mapped) == PMFS_REASON_STILL_MAPPED);
    }
    io.count = static_cast<std::uint32_t>(count);
    return offsetof(pmfs_quarantine, entry) + count * sizeof(pmfs_quarantined);
}

Result<std::size_t> quarantine_release(Job &job, pmfs_io_quarantine_release &io) {
    TRY(check_zero(io.flags));
    TRY(job.context.volume.release_quarantine(io.id, job.caller));
    return kAll;
}

Result<std::size_t> chunks(Job &job, pmfs_chunks &io) {
    TRY(check_zero(io.flags));
    TRY(check_zero(io.reserved));
    const std::uint64_t total = job.context.volume.info().chunks;
    const std::uint64_t first = std::min(io.first, total);
    const std::size_t count = std::min<std::uint64_t>(PMFS_CHUNKS_MAX, total - first);
    std::vector<ChunkInfo> page(count);
    if (count != 0) TRY(job.context.volume.chunks(ChunkNo(first), page));
    io.count = static_cast<std::uint32_t>(count);
    for (std::size_t i = 0; i < count; i++)
        io.chunk[i] = {.used = page[i].used_blocks, .kind = page[i].kind, .reserved = 0};
    return offsetof(pmfs_chunks, chunk) + count * sizeof(pmfs_chunk);
}

Result<std::size_t> grow(Job &job, pmfs_io_grow &io) {
    TRY(check_zero(io.flags));
    TRY(check_zero(io.reserved));
    Growth growth;
    const auto grown = job.context.volume.grow(io.size, job.caller, &growth);
    io.before = growth.before;
    io.now = growth.now;
    io.medium = growth.medium;
    TRY(grown);
    return kAll;
}

Result<std::size_t> tune(Job &job, pmfs_io_tune &io) {
    TRY(check_zero(io.flags & ~PMFS_TUNE_RESERVE));
    TRY(check_zero(io.reserved0));
    TRY(check_zero(io.reserved));
    Volume &volume = job.context.volume;
    if ((io.flags & PMFS_TUNE_RESERVE) != 0) TRY(volume.set_root_reserve(io.reserve, job.caller));
    io.reserve = TRY(volume.root_reserve());
    return kAll;
}

Result<std::size_t> compact(Job &job, pmfs_io_compact &io) {
    TRY(check_zero(io.flags));
    TRY(check_zero(io.reserved));
    const Compacted done = TRY(job.context.volume.compact(GroupNo(io.from), job.caller));
    io.next = done.next.value();
    io.chunks = done.chunks;
    io.moved = done.moved;
    io.more = done.more ? 1 : 0;
    return kAll;
}

// --- seals ----------------------------------------------------------------------------------

Result<std::size_t> seal(Job &job, pmfs_io_seal &io) {
    io.bad_offset = 0;
    TRY(check_zero(io.flags));
    TRY(check_zero(io.reserved));
    if (io.level != PMFS_SEAL_AS_IS && io.level != PMFS_SEAL_FULL)
        return Error(EINVAL, "the level of a seal must be as-is or full");
    TRY(need_regular(job));
    TRY(need_write_handle(job));
    const SealLevel level = io.level == PMFS_SEAL_FULL ? SealLevel::full : SealLevel::as_is;
    TRY(job.context.volume.seal(job.ino, level, job.caller, false, &io.bad_offset));
    return kAll;
}

Result<std::size_t> unseal(Job &job, pmfs_io_unseal &io) {
    TRY(check_zero(io.flags));
    TRY(need_regular(job));
    TRY(need_write_handle(job));
    TRY(job.context.volume.unseal(job.ino, job.caller, false));
    return kAll;
}

Result<std::size_t> prepare(Job &job, pmfs_io_prepare &io) {
    TRY(check_zero(io.flags & ~PMFS_PREPARE_CONTIGUOUS));
    const bool contiguous = (io.flags & PMFS_PREPARE_CONTIGUOUS) != 0;
    if (contiguous) TRY(check_zero(io.unit));
    TRY(need_regular(job));
    TRY(need_write_handle(job));
    Volume &volume = job.context.volume;
    static_assert(Volume::kContiguousMax == PMFS_CONTIGUOUS_MAX);
    if (contiguous)
        TRY(volume.prepare_contiguous(job.ino, io.offset, io.length, job.caller));
    else
        TRY(volume.prepare(job.ino, io.offset, io.length, io.unit, job.caller));
    return kAll;
}

// --- grants ---------------------------------------------------------------------------------

Result<GrantKind> grant_kind(std::uint32_t number) {
    switch (number) {
        case PMFS_GRANT_TEMPORARY:
            return GrantKind::temporary;
        case PMFS_GRANT_BREAKABLE:
            return GrantKind::breakable;
        case PMFS_GRANT_PIN:
            return GrantKind::pin;
        default:
            return Error(EINVAL, "there is no such kind of grant");
    }
}

// The answer about a grant that was just taken.
Result<> tell_grant(Job &job, pmfs_io_grant &io, const BrokerClaim &claim) {
    Volume &volume = job.context.volume;
    Broker *broker = job.context.broker;
    const VolumeInfo info = volume.info();
    // The size cannot change any more.
    if (io.length == 0) io.length = TRY(volume.getattr(job.ino)).size - io.offset;
    io.medium = medium_of(volume);
    io.grant = claim.grant;
    io.epoch = broker != nullptr ? broker->epoch() : 0;
    io.mapping_unit = info.mapping_unit;
    io.device_size = info.size;
    std::memcpy(io.uuid, info.uuid, sizeof io.uuid);
    if (!claim.maps && (io.flags & PMFS_GRANT_EVENTS) == 0) return {};
    const BrokerToken token = TRY(broker->issue(claim, job.caller));
    static_assert(sizeof io.token == sizeof token.bytes);
    std::memcpy(io.token, token.bytes, sizeof io.token);
    copy_text(io.broker, broker->socket_path());
    return {};
}

Result<std::size_t> grant(Job &job, pmfs_io_grant &io) {
    io.bad_offset = 0;
    constexpr std::uint32_t kKnown = PMFS_GRANT_STORE | PMFS_GRANT_MAP | PMFS_GRANT_EVENTS |
                                     PMFS_GRANT_HAND_OVER | PMFS_GRANT_NOWAIT | PMFS_GRANT_FORK |
                                     PMFS_GRANT_CHUNKS;
    TRY(check_zero(io.flags & ~kKnown));
    const GrantKind kind = TRY(grant_kind(io.kind));
    TRY(need_regular(job));
    BrokerClaim claim;
    claim.handle = job.handle;
    claim.may_store = (io.flags & PMFS_GRANT_STORE) != 0;
    claim.maps = (io.flags & PMFS_GRANT_MAP) != 0;
    claim.hand_over = (io.flags & PMFS_GRANT_HAND_OVER) != 0;
    TRY(need_handle(job));
    if (claim.may_store) TRY(need_write_handle(job));
    if ((claim.maps || (io.flags & PMFS_GRANT_EVENTS) != 0) && job.context.broker == nullptr)
        return Error(EOPNOTSUPP, "this mount provides no direct mappings");
    if (claim.maps) TRY(job.context.broker->may_map(job.caller));
    if (claim.hand_over && (!claim.maps || job.caller.uid != 0))
        return Error(EPERM, "only root may hand over the device, and only with a mapping");
    Volume &volume = job.context.volume;
    const GrantRequest request{.kind = kind,
                               .offset = io.offset,
                               .length = io.length,
                               .may_store = claim.may_store,
                               .maps = claim.maps,
                               .lent = claim.maps,
                               .forks = (io.flags & PMFS_GRANT_FORK) != 0,
                               .trusted = claim.maps && job.context.broker->is_trusted(job.caller),
                               .unit = (io.flags & PMFS_GRANT_CHUNKS) != 0 ? media::kChunkSize : 0};
    Client &client = job.context.client;
    TRY(client.take_grant_place(job.handle));
    const auto taken = volume.take_grant(job.handle, request, job.caller, &io.bad_offset);
    if (!taken.ok()) client.free_grant_place(job.handle);
    claim.grant = TRY(taken);
    if (const auto told = tell_grant(job, io, claim); !told.ok()) {
        (void)volume.drop_grant(job.handle, claim.grant).ok();  // it exists: it was just taken
        client.free_grant_place(job.handle);
        return told.error();
    }
    return kAll;
}

Result<std::size_t> release_grant(Job &job, pmfs_io_release_grant &io) {
    TRY(check_zero(io.flags));
    TRY(need_handle(job));
    TRY(job.context.volume.drop_grant(job.handle, io.grant));
    job.context.client.free_grant_place(job.handle);
    if (job.context.broker != nullptr) job.context.broker->grant_released(job.handle, io.grant);
    return kAll;
}

Result<std::size_t> revoke(Job &job, pmfs_io_revoke &io) {
    TRY(check_zero(io.flags));
    TRY(check_zero(io.reserved));
    const InodeNo ino = io.inode != 0 ? InodeNo(io.inode) : job.ino;
    io.ended = TRY(job.context.volume.revoke(ino, io.grant, io.pid, job.caller));
    return kAll;
}

// --- the machinery --------------------------------------------------------------------------

template <class T, Result<std::size_t> (*handler)(Job &, T &)>
Result<std::size_t> run_typed(Job &job, std::vector<std::byte> &bytes) {
    T io;
    static_assert(std::is_trivially_copyable_v<T>);
    PMFS_ASSERT(bytes.size() == sizeof io);
    std::memcpy(&io, bytes.data(), sizeof io);
    TRY(check_version(io.version));
    const auto used = handler(job, io);
    std::memcpy(bytes.data(), &io, sizeof io);  // also on failure: bad_offset
    return used;
}

using enum Command::Way;
using enum Command::Needs;
constexpr Command kCommands[] = {
    {PMFS_IOC_INFO, at_once, false, nothing, run_typed<pmfs_info, info>},
    {PMFS_IOC_EXTENTS, at_once, false, nothing, run_typed<pmfs_extents, extents>},
    {PMFS_IOC_HOLDERS, elsewhere, false, nothing, run_typed<pmfs_holders, holders>},
    {PMFS_IOC_SEAL, flushed, true, freeze, run_typed<pmfs_io_seal, seal>},
    {PMFS_IOC_UNSEAL, flushed, true, freeze, run_typed<pmfs_io_unseal, unseal>},
    {PMFS_IOC_PREPARE, flushed_lengthy, true, change, run_typed<pmfs_io_prepare, prepare>},
    {PMFS_IOC_GRANT, flushed, true, freeze, run_typed<pmfs_io_grant, grant>},
    {PMFS_IOC_RELEASE_GRANT, at_once, true, nothing,
     run_typed<pmfs_io_release_grant, release_grant>},
    {PMFS_IOC_REVOKE, flushed, true, host, run_typed<pmfs_io_revoke, revoke>},
    {PMFS_IOC_QUARANTINE, elsewhere, false, host, run_typed<pmfs_quarantine, quarantine>},
    {PMFS_IOC_QUARANTINE_RELEASE, flushed, false, host,
     run_typed<pmfs_io_quarantine_release, quarantine_release>},
    {PMFS_IOC_VOLUME, elsewhere, false, nothing, run_typed<pmfs_volume, volume>},
    {PMFS_IOC_CHUNKS, at_once, false, nothing, run_typed<pmfs_chunks, chunks>},
    {PMFS_IOC_CLIENTS, at_once, false, nothing, run_typed<pmfs_clients, clients>},
    {PMFS_IOC_GROW, flushed_lengthy, false, host, run_typed<pmfs_io_grow, grow>},
    {PMFS_IOC_TUNE, flushed, false, host, run_typed<pmfs_io_tune, tune>},
    {PMFS_IOC_COMPACT, flushed_lengthy, false, host, run_typed<pmfs_io_compact, compact>},
};

}  // namespace

void handle_ioctl(IoctlContext &context, const IoctlRequest &request, IoctlDone done) {
    const auto *command =
        std::find_if(std::begin(kCommands), std::end(kCommands),
                     [&](const Command &c) { return c.number == request.command; });
    if (command == std::end(kCommands)) return done({.error = ENOTTY, .out = {}});
    // The kernel derives both sizes from the command's number; another transport may not.
    if (request.in.size() != _IOC_SIZE(request.command)) return done({.error = EINVAL, .out = {}});
    start(*command, context, request, std::move(done));
}

}  // namespace pmfs::front
