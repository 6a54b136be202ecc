// The verbs: what each one queries, and how it prints the answer, for people and as JSON.
#include "verbs.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/hex.h"
#include "base/printable.h"
#include "base/units.h"
#include "file.h"
#include "json.h"
#include "picture.h"
#include "sentences.h"
#include "words.h"

namespace pmfs::ctl {
namespace {

Json to_json(const File &file, const pmfs_info &info) {
    return {{"path", file.path()},
            {"inode", info.inode},
            {"generation", info.generation},
            {"regular", file.is_regular()},
            {"size", info.size},
            {"allocated", info.allocated},
            {"seal", seal_text(info.seal)},
            {"extents", info.extents},
            {"map_digest", hex_text(info.digest)},
            {"grants", info.grants},
            {"handles_cached", info.handles_cached},
            {"handles_cached_write", info.handles_cached_write},
            {"handles_direct", info.handles_direct}};
}

Json to_json(const pmfs_volume &volume) {
    const std::uint64_t block = volume.block_size;
    return {{"uuid", uuid_text(volume.uuid)},
            {"label", volume.label},
            {"source", volume.source},
            {"medium", medium_key(volume.medium)},
            {"size", volume.size},
            {"block_size", block},
            {"mapping_unit", volume.mapping_unit},
            {"journal_size", volume.journal_size},
            {"bytes_total", volume.blocks_total * block},
            {"bytes_free", volume.blocks_free * block},
            {"bytes_available", volume.blocks_available * block},
            {"inodes_used", volume.inodes_used},
            {"inodes_free_now", volume.inodes_free},
            {"chunks", volume.chunks},
            {"chunk_size", volume.chunk_size},
            {"tx_last", volume.tx_last},
            {"tx_durable", volume.tx_durable},
            {"epoch", volume.epoch},
            {"server_pid", volume.server_pid},
            {"read_only", (volume.flags & PMFS_VOLUME_READ_ONLY) != 0},
            {"damaged", (volume.flags & PMFS_VOLUME_DAMAGED) != 0},
            {"direct_mappings", (volume.flags & PMFS_VOLUME_BROKER) != 0},
            {"quarantines", volume.quarantines},
            {"quarantined", volume.quarantined}};
}

Json to_json(const pmfs_client &client) {
    Json requests = Json::object();
    for (std::size_t opcode = 0; opcode < PMFS_REQUEST_KINDS; ++opcode)
        if (client.requests[opcode] != 0) requests[request_key(opcode)] = client.requests[opcode];
    return {{"id", client.id},
            {"guest", (client.flags & PMFS_CLIENT_GUEST) != 0},
            {"socket", client.name},
            {"pid", client.pid},
            {"requests", requests}};
}

// "7 requests (lookup 5, read 2)".
std::string requests_words(const pmfs_client &client) {
    std::uint64_t total = 0;
    std::string kinds;
    for (std::size_t opcode = 0; opcode < PMFS_REQUEST_KINDS; ++opcode) {
        if (client.requests[opcode] == 0) continue;
        total += client.requests[opcode];
        kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", request_key(opcode),
                             client.requests[opcode]);
    }
    return fmt::format("{} ({})", counted(total, "request"), kinds);
}

void print_client(const pmfs_client &client) {
    if (client.name[0] != 0)
        fmt::print("  guest         {} of process {}: {}\n", printable(client.name), client.pid,
                   requests_words(client));
    else
        fmt::print("  {}  {}\n", client.flags & PMFS_CLIENT_GUEST ? "this guest  " : "this mount  ",
                   requests_words(client));
}

Json to_json(const pmfs_extent &extent) {
    return {{"offset", extent.offset},
            {"device", extent.device},
            {"length", extent.length},
            {"unwritten", (extent.flags & PMFS_EXTENT_UNWRITTEN) != 0},
            {"shared", (extent.flags & PMFS_EXTENT_SHARED) != 0}};
}

int print_info(const File &file, const pmfs_info &info, bool json) {
    if (json) return print(to_json(file, info));
    fmt::print("{}\n  seal        {}\n  size        {} ({} bytes), {} allocated\n", file.name(),
               seal_text(info.seal), size_words(info.size), info.size, size_words(info.allocated));
    if (file.is_regular())
        fmt::print("  extents     {}\n  map digest  {}\n", info.extents, hex_text(info.digest));
    fmt::print(
        "  held by     grants: {}, cached handles: {} (for writing: {}), direct handles: {}\n"
        "  inode       {}, generation {}\n",
        info.grants, info.handles_cached, info.handles_cached_write, info.handles_direct,
        info.inode, info.generation);
    return kDone;
}

// The file's state after a verb that changed it, as JSON; nothing for people.
int print_after(const File &file, Verb verb, bool json) {
    if (!json) return kDone;
    pmfs_info info;
    if (const int error = file.info(&info)) return complain(file, verb, error);
    return print_info(file, info, json);
}

int prepare_range(const File &file, const Options &options) {
    if (options.contiguous)
        return -pmfs_prepare_contiguous(file.fd(), static_cast<off_t>(options.offset),
                                        options.length);
    return -pmfs_prepare(file.fd(), static_cast<off_t>(options.offset), options.length,
                         options.unit);
}

Verb verb_of_prepare(const Options &options) {
    return options.contiguous ? Verb::prepare_contiguous : Verb::prepare;
}

// EBUSY ends when the holders do, but no event reports that, so this polls.
int unseal_or_wait(const File &file, const Options &options) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    for (;;) {
        const int error = -pmfs_unseal(file.fd());
        const std::chrono::duration<double> waited = Clock::now() - start;
        if (error != EBUSY || waited.count() >= options.wait_seconds) return error;
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
}

bool want_color(Color color) {
    if (color != Color::automatic) return color == Color::always;
    const char *no = std::getenv("NO_COLOR");  // https://no-color.org
    return ::isatty(STDOUT_FILENO) == 1 && (no == nullptr || *no == 0);
}

unsigned terminal_width() {
    winsize size{};
    if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col != 0) return size.ws_col;
    const char *columns = std::getenv("COLUMNS");
    const long said = columns != nullptr ? std::strtol(columns, nullptr, 10) : 0;
    return said > 0 ? static_cast<unsigned>(said) : 80;
}

int map_volume(const File &file, const Options &options) {
    pmfs_volume volume;
    std::vector<pmfs_chunk> chunks;
    int error = file.volume(&volume);
    if (error == 0) error = file.chunks(&chunks);
    if (error != 0) return complain(file, Verb::map, error);
    if (!options.json) {
        PictureStyle style;
        style.color = want_color(options.color);
        style.ascii = options.ascii;
        style.width = options.width != 0 ? options.width : terminal_width();
        fmt::print("{}", draw(volume, chunks, style));
        return kDone;
    }
    static constexpr const char *kKinds[] = {"free", "metadata", "data", "mixed"};
    Json list = Json::array();
    for (const pmfs_chunk &chunk : chunks)
        list.push_back({{"kind", chunk.kind < std::size(kKinds) ? kKinds[chunk.kind] : "unknown"},
                        {"used", std::uint64_t{chunk.used} * volume.block_size}});
    return print({{"size", volume.size}, {"chunk_size", volume.chunk_size}, {"chunks", list}});
}

int map_file(const File &file, const Options &options) {
    std::vector<pmfs_extent> extents;
    pmfs_info info;
    int error = file.info(&info);
    if (error == 0) error = file.extents(&extents);
    if (error != 0) return complain(file, Verb::map, error);
    if (options.json) {
        Json list = Json::array();
        for (const pmfs_extent &extent : extents) list.push_back(to_json(extent));
        return print({{"path", file.path()},
                      {"size", info.size},
                      {"seal", seal_text(info.seal)},
                      {"map_digest", hex_text(info.digest)},
                      {"extents", list}});
    }
    fmt::print("{}: {}, {}\n{:>18} {:>18} {:>18}\n", file.name(), counted(extents.size(), "extent"),
               info.seal == PMFS_SEAL_NONE ? std::string("not sealed")
                                           : fmt::format("sealed {}", seal_text(info.seal)),
               "offset", "on the device", "length");
    for (const pmfs_extent &extent : extents)
        fmt::print("{:>18} {:>18} {:>18}{}{}\n", extent.offset, extent.device, extent.length,
                   extent.flags & PMFS_EXTENT_UNWRITTEN ? "  unwritten" : "",
                   extent.flags & PMFS_EXTENT_SHARED ? "  shared" : "");
    return kDone;
}

}  // namespace

int info(const Options &options) {
    const File file(options.path, File::Access::read);
    pmfs_info info;
    if (const int error = file.info(&info)) return complain(file, Verb::info, error);
    if (file.is_regular() && info.handles_direct > 0) info.handles_direct--;  // ours
    return print_info(file, info, options.json);
}

int status(const Options &options) {
    const File file(options.path, File::Access::read);
    pmfs_volume volume;
    std::vector<pmfs_client> clients;
    int error = file.volume(&volume);
    if (error == 0) error = file.clients(&clients);
    if (error != 0) return complain(file, Verb::status, error);
    if (options.json) {
        Json all = to_json(volume);
        all["clients"] = Json::array();
        for (const pmfs_client &client : clients) all["clients"].push_back(to_json(client));
        return print(all);
    }
    const std::uint64_t block = volume.block_size;
    fmt::print("{} ({}), {}\n  uuid          {}\n", printable(volume.source),
               medium_text(volume.medium), size_words(volume.size), uuid_text(volume.uuid));
    if (volume.label[0] != 0) fmt::print("  label         {}\n", printable(volume.label));
    fmt::print("  data          {} of {} available\n  inodes        {} used\n",
               size_words(volume.blocks_available * block), size_words(volume.blocks_total * block),
               volume.inodes_used);
    fmt::print("  mapping unit  {}\n  journal       {}; transaction {}, durable up to {}\n",
               size_words(volume.mapping_unit), size_words(volume.journal_size), volume.tx_last,
               volume.tx_durable);
    fmt::print("  server        process {}, direct mappings {}\n", volume.server_pid,
               volume.flags & PMFS_VOLUME_BROKER ? "on" : "off");
    if (volume.quarantines != 0)
        fmt::print("  quarantine    {} held back for {}: see pmfsctl quarantine\n",
                   size_words(volume.quarantined), counted(volume.quarantines, "holder"));
    if (volume.flags & PMFS_VOLUME_READ_ONLY)
        fmt::print("  read-only     {}\n", volume.flags & PMFS_VOLUME_DAMAGED
                                               ? "after an error: unmount it and run fsck.pmfs"
                                               : "it was mounted read-only");
    for (const pmfs_client &client : clients) print_client(client);
    return kDone;
}

int prepare(const Options &options) {
    const File file(options.path, File::Access::write);
    int error = file.error();
    if (error == 0) error = prepare_range(file, options);
    if (error != 0) return complain(file, verb_of_prepare(options), error);
    return print_after(file, Verb::prepare, options.json);
}

int seal(const Options &options) {
    const File file(options.path, File::Access::write);
    std::uint64_t bad_offset = 0;
    int error = file.error();
    if (error == 0 && options.prepare) {
        // A file that is sealed already may meet the requirements: the seal decides.
        error = prepare_range(file, options);
        if (error != 0 && error != ETXTBSY) return complain(file, verb_of_prepare(options), error);
        error = 0;
    }
    if (error == 0)
        error = file.seal(options.as_is ? PMFS_SEAL_AS_IS : PMFS_SEAL_FULL, &bad_offset);
    if (error != 0) return complain(file, Verb::seal, error, bad_offset);
    return print_after(file, Verb::seal, options.json);
}

int unseal(const Options &options) {
    const File file(options.path, File::Access::write);
    const int error = file.error() != 0 ? file.error() : unseal_or_wait(file, options);
    if (error != 0) return complain(file, Verb::unseal, error);
    return print_after(file, Verb::unseal, options.json);
}

int map(const Options &options) {
    const File file(options.path, File::Access::read);
    if (file.error() != 0) return complain(file, Verb::map, file.error());
    return file.is_regular() ? map_file(file, options) : map_volume(file, options);
}

int holders(const Options &options) {
    const File file(options.path, File::Access::read);
    std::vector<pmfs_holder> all;
    if (const int error = file.holders(&all)) return complain(file, Verb::holders, error);
    if (options.json) {
        Json list = Json::array();
        for (const pmfs_holder &holder : all) list.push_back(to_json(holder));
        return print({{"path", file.path()}, {"holders", list}});
    }
    for (const pmfs_holder &holder : all) fmt::print("{}\n", describe(holder));
    if (all.empty()) fmt::print("{} has no holders\n", file.name());
    return kDone;
}

}  // namespace pmfs::ctl
