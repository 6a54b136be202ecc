// The options that are pmfs's own, each with its parser; libmount knows the others.
#include "front/mount/options.h"

#include <fmt/format.h>
#include <grp.h>
#include <libmount/libmount.h>
#include <sys/mount.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>

namespace pmfs::front {
namespace {

using Refusal = std::optional<std::string>;  // a sentence, or nothing to object to
using CText = std::unique_ptr<char, decltype(&std::free)>;

std::optional<double> to_seconds(std::string_view text, double max) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return {};
    if (!(value >= 0 && value <= max)) return {};
    return value;
}

Refusal set_timeout(std::string_view name, std::string_view value, double *to) {
    constexpr double kYear = 366.0 * 24 * 3600;
    const auto seconds = to_seconds(value, kYear);
    if (!seconds) return fmt::format("{}= takes seconds, not '{}'", name, value);
    *to = *seconds;
    return {};
}

Refusal set_commit(std::string_view, std::string_view value, ServeOptions *options) {
    const auto seconds = to_seconds(value, 300);
    if (!seconds || *seconds < 0.01)
        return fmt::format("commit= takes seconds from 0.01 to 300, not '{}'", value);
    options->volume.commit_interval_ms = static_cast<unsigned>(*seconds * 1000);
    return {};
}

Refusal set_seal(std::string_view, std::string_view value, ServeOptions *options) {
    if (value != "owner" && value != "root")
        return fmt::format("seal= takes 'owner' or 'root', not '{}'", value);
    options->volume.owner_may_seal = value == "owner";
    return {};
}

Refusal set_sealed_reads(std::string_view, std::string_view value, ServeOptions *options) {
    if (value != "cached" && value != "direct")
        return fmt::format("sealed_reads= takes 'cached' or 'direct', not '{}'", value);
    options->volume.sealed_direct = value == "direct";
    return {};
}

Refusal set_norecovery(std::string_view, std::string_view, ServeOptions *options) {
    options->volume.no_recovery = true;
    return {};
}

Refusal set_writeback(std::string_view, std::string_view, ServeOptions *options) {
    options->dispatch.writeback = options->volume.writeback = true;
    return {};
}

Refusal set_group(std::string_view, std::string_view value, ServeOptions *options) {
    const std::string name(value);
    const group *found = ::getgrnam(name.c_str());
    if (found == nullptr) return fmt::format("group={}: there is no such group", value);
    options->group = found->gr_gid;
    return {};
}

// As in nfs(5): which locks the kernel here keeps for itself.
Refusal set_local_lock(std::string_view, std::string_view value, ServeOptions *options) {
    const bool all = value == "all";
    if (!all && value != "none" && value != "flock" && value != "posix")
        return fmt::format("local_lock= takes 'all', 'none', 'flock' or 'posix', not '{}'", value);
    options->local.shares_ranges = !all && value != "posix";
    options->local.shares_wholes = !all && value != "flock";
    return {};
}

std::string shown_local_lock(const ServeOptions &options) {
    return fmt::format("{} {}", options.local.shares_ranges, options.local.shares_wholes);
}

Refusal set_seccomp(std::string_view, std::string_view value, ServeOptions *options) {
    const auto mode = seccomp_of(value);
    if (!mode)
        return fmt::format("seccomp= takes 'errno', 'kill', 'trap', 'log' or 'none', not '{}'",
                           value);
    options->seccomp = *mode;
    return {};
}

constexpr std::pair<std::string_view, TransportChoice> kTransports[] = {
    {"auto", TransportChoice::automatic},
    {"dev_fuse", TransportChoice::dev_fuse},
    {"io_uring", TransportChoice::io_uring}};

Refusal set_transport(std::string_view, std::string_view value, ServeOptions *options) {
    for (const auto &[word, choice] : kTransports)
        if (word == value) {
            options->transport = choice;
            return {};
        }
    return fmt::format("transport= takes 'auto', 'dev_fuse' or 'io_uring', not '{}'", value);
}

std::string shown_transport(const ServeOptions &options) {
    return std::string(kTransports[static_cast<int>(options.transport)].first);
}

Refusal set_lease_break_time(std::string_view, std::string_view value, ServeOptions *options) {
    const auto seconds = to_seconds(value, 3600);
    if (!seconds)
        return fmt::format("lease_break_time= takes seconds, at most 3600, not '{}'", value);
    options->volume.lease_break_ms = static_cast<unsigned>(*seconds * 1000);
    return {};
}

std::optional<unsigned> to_number(std::string_view text, unsigned least, unsigned most) {
    unsigned number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size()) return {};
    if (number < least || number > most) return {};
    return number;
}

// Bytes, or with K, M, G, T so many times 1024.
std::optional<std::uint64_t> to_bytes(std::string_view text) {
    constexpr std::string_view kUnits = "KMGT";
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
    if (error != std::errc() || unit.size() > 1) return {};
    const std::size_t power = unit.empty() ? 0 : kUnits.find(unit.front()) + 1;
    if (!unit.empty() && power == 0) return {};  // npos + 1
    if (number > (std::uint64_t{1} << 60) >> (10 * power)) return {};
    return number << (10 * power);
}

Refusal set_pin_quota(std::string_view, std::string_view value, ServeOptions *options) {
    const auto bytes = to_bytes(value);
    if (!bytes) return fmt::format("pin_quota= takes a size like 64M, not '{}'", value);
    options->volume.pin_quota = bytes;
    return {};
}

Refusal set_mappings(std::string_view, std::string_view value, ServeOptions *options) {
    constexpr unsigned kLeast = 16, kMost = 1'000'000;
    const auto number = to_number(value, kLeast, kMost);
    if (!number)
        return fmt::format("mappings= takes a number from {} to {}, not '{}'", kLeast, kMost,
                           value);
    options->volume.grants_max = *number;
    return {};
}

// --- guests: vhost=SOCKET, and the options that follow it

constexpr std::uint64_t kDefaultWindow = std::uint64_t{4} << 30;

// The one that was named last.
GuestOptions *last_guest(ServeOptions *options) {
    return options->guests.empty() ? nullptr : &options->guests.back();
}

Refusal add_guest(std::string_view, std::string_view value, ServeOptions *options) {
    constexpr std::size_t kPathMax = sizeof(sockaddr_un::sun_path) - 1;
    if (value.empty() || value.front() != '/')
        return fmt::format("vhost= takes an absolute path for its socket, not '{}'", value);
    if (value.size() > kPathMax)
        return fmt::format("vhost={}: the path of a socket has at most {} bytes", value, kPathMax);
    for (const GuestOptions &guest : options->guests)
        if (guest.socket == value) return fmt::format("vhost={} is given twice", value);
    options->guests.emplace_back().socket = value;
    return {};
}

// An option that belongs to a vhost= before it.
using SetGuest = std::function<Refusal(std::string_view value, GuestOptions *guest)>;
auto of_guest(SetGuest to) {
    return [set = std::move(to)](std::string_view name, std::string_view value,
                                 ServeOptions *options) -> Refusal {
        GuestOptions *guest = last_guest(options);
        if (guest == nullptr) return fmt::format("{} must come after a vhost=SOCKET", name);
        return set(value, guest);
    };
}

Refusal set_tag(std::string_view value, GuestOptions *guest) {
    constexpr std::size_t kTagMax = sizeof(virtio_fs_config::tag);
    if (value.empty() || value.size() > kTagMax)
        return fmt::format("tag= takes a name of 1 to {} bytes, not '{}'", kTagMax, value);
    guest->tag = value;
    return {};
}

Refusal set_queues(std::string_view value, GuestOptions *guest) {
    constexpr unsigned kMost = 64;
    const auto number = to_number(value, 1, kMost);
    if (!number) return fmt::format("queues= takes a number from 1 to {}, not '{}'", kMost, value);
    guest->request_queues = *number;
    return {};
}

Refusal set_window(std::string_view value, GuestOptions *guest) {
    constexpr std::uint64_t kMost = std::uint64_t{1} << 44;
    const auto bytes = to_bytes(value);
    if (!bytes || *bytes == 0 || *bytes > kMost || *bytes % DaxWindow::kRange != 0)
        return fmt::format("window= takes a multiple of 2M, at most 16T, not '{}'", value);
    guest->window = *bytes;
    return {};
}

Refusal set_polling(std::string_view value, GuestOptions *guest) {
    constexpr unsigned kMost = 1'000'000;
    const auto number = to_number(value, 0, kMost);
    if (!number) return fmt::format("poll= takes microseconds, at most {}, not '{}'", kMost, value);
    guest->polling = std::chrono::microseconds(*number);
    return {};
}

Refusal set_guest_locks(std::string_view value, GuestOptions *guest) {
    constexpr unsigned kMost = 1'000'000;
    const auto number = to_number(value, 0, kMost);
    if (!number)
        return fmt::format("guest_locks= takes a number, at most {}, not '{}'", kMost, value);
    guest->policy.shares_ranges = guest->policy.shares_wholes = *number != 0;
    guest->policy.locks_max = *number;
    return {};
}

// Of what a guest holds in the server.
auto set_guest_limit(const char *option, std::size_t Policy::*limit) {
    return of_guest([option, limit](std::string_view value, GuestOptions *guest) -> Refusal {
        constexpr unsigned kMost = 1'000'000'000;
        const auto number = to_number(value, 1, kMost);
        if (!number)
            return fmt::format("{}= takes a number from 1 to {}, not '{}'", option, kMost, value);
        guest->policy.*limit = *number;
        return {};
    });
}

Refusal set_guest_root(std::string_view value, GuestOptions *guest) {
    if (value.empty() || value.front() != '/')
        return fmt::format("guest_root= takes a path from the volume's root, not '{}'", value);
    guest->root = value;
    return {};
}

// INSIDE:OUTSIDE:COUNT, once for each range.
std::optional<IdRange> to_range(std::string_view text) {
    std::array<std::uint32_t, 3> numbers{};
    for (std::size_t i = 0; i < numbers.size(); ++i) {
        const auto [end, error] =
            std::from_chars(text.data(), text.data() + text.size(), numbers[i]);
        if (error != std::errc()) return {};
        text.remove_prefix(static_cast<std::size_t>(end - text.data()));
        const bool last = i + 1 == numbers.size();
        if (last ? !text.empty() : !text.starts_with(':')) return {};
        if (!last) text.remove_prefix(1);
    }
    const auto [inside, outside, count] = numbers;
    if (count == 0 || inside > UINT32_MAX - count || outside > UINT32_MAX - count) return {};
    return IdRange{inside, outside, count};
}

Refusal add_range(std::string_view value, std::vector<IdRange> *ranges) {
    const auto range = to_range(value);
    if (!range)
        return fmt::format("'{}' is not a range of ids: FIRST-IN-GUEST:FIRST-HERE:COUNT", value);
    for (const IdRange &other : *ranges) {
        const auto meet = [](std::uint32_t a, std::uint32_t a_count, std::uint32_t b,
                             std::uint32_t b_count) { return a < b + b_count && b < a + a_count; };
        if (meet(other.inside, other.count, range->inside, range->count) ||
            meet(other.outside, other.count, range->outside, range->count))
            return fmt::format("the range '{}' overlaps another one", value);
    }
    ranges->push_back(*range);
    return {};
}

std::string sockets_of(const ServeOptions &options) {
    std::string all;
    for (const GuestOptions &guest : options.guests) all += guest.socket + ' ';
    return all;
}

struct OwnOption {
    std::string_view name;
    bool has_value;
    std::function<Refusal(std::string_view name, std::string_view value, ServeOptions *)> set;
    // Its value as text, to compare; the default, an empty one: a remount may give it again.
    std::function<std::string(const ServeOptions &)> shown = [](const auto &) {
        return std::string();
    };
};

const auto &own_options() {
    const static std::array kOptions{
        OwnOption{"vhost", true, add_guest, sockets_of},
        OwnOption{"tag", true, of_guest(set_tag)},
        OwnOption{"queues", true, of_guest(set_queues)},
        OwnOption{"poll", true, of_guest(set_polling)},
        OwnOption{"window", true, of_guest(set_window)},
        OwnOption{"dax", false, of_guest([](auto, auto *guest) -> Refusal {
                      if (guest->window == 0) guest->window = kDefaultWindow;
                      return {};
                  })},
        OwnOption{"guest_root", true, of_guest(set_guest_root)},
        OwnOption{"guest_locks", true, of_guest(set_guest_locks)},
        OwnOption{"guest_inodes", true, set_guest_limit("guest_inodes", &Policy::lookups_max)},
        OwnOption{"guest_files", true, set_guest_limit("guest_files", &Policy::handles_max)},
        OwnOption{"guest_grants", true, set_guest_limit("guest_grants", &Policy::grants_max)},
        OwnOption{"guest_ro", false, of_guest([](auto, auto *guest) -> Refusal {
                      guest->policy.read_only = true;
                      return {};
                  })},
        OwnOption{"guest_noseal", false, of_guest([](auto, auto *guest) -> Refusal {
                      guest->policy.may_seal = false;
                      return {};
                  })},
        OwnOption{"guest_uid", true, of_guest([](auto value, auto *guest) {
                      return add_range(value, &guest->users);
                  })},
        OwnOption{"guest_gid", true, of_guest([](auto value, auto *guest) {
                      return add_range(value, &guest->groups);
                  })},
        OwnOption{"attr_timeout", true,
                  [](auto name, auto value, auto *options) {
                      return set_timeout(name, value, &options->dispatch.attr_timeout_s);
                  },
                  [](const auto &o) { return fmt::to_string(o.dispatch.attr_timeout_s); }},
        OwnOption{"entry_timeout", true,
                  [](auto name, auto value, auto *options) {
                      return set_timeout(name, value, &options->dispatch.entry_timeout_s);
                  },
                  [](const auto &o) { return fmt::to_string(o.dispatch.entry_timeout_s); }},
        OwnOption{"writeback", false, set_writeback,
                  [](const auto &o) { return fmt::to_string(o.dispatch.writeback); }},
        OwnOption{"norecovery", false, set_norecovery,
                  [](const auto &o) { return fmt::to_string(o.volume.no_recovery); }},
        OwnOption{"commit", true, set_commit,
                  [](const auto &o) { return fmt::to_string(o.volume.commit_interval_ms); }},
        OwnOption{"seal", true, set_seal,
                  [](const auto &o) { return fmt::to_string(o.volume.owner_may_seal); }},
        OwnOption{"sealed_reads", true, set_sealed_reads,
                  [](const auto &o) { return fmt::to_string(o.volume.sealed_direct); }},
        OwnOption{"group", true, set_group,
                  [](const auto &o) { return o.group ? fmt::to_string(*o.group) : "none"; }},
        OwnOption{"local_lock", true, set_local_lock, shown_local_lock},
        OwnOption{"lease_break_time", true, set_lease_break_time,
                  [](const auto &o) { return fmt::to_string(o.volume.lease_break_ms); }},
        OwnOption{"pin_quota", true, set_pin_quota,
                  [](const auto &o) {
                      return o.volume.pin_quota ? fmt::to_string(*o.volume.pin_quota) : "none";
                  }},
        OwnOption{"mappings", true, set_mappings,
                  [](const auto &o) { return fmt::to_string(o.volume.grants_max); }},
        OwnOption{"transport", true, set_transport, shown_transport},
        OwnOption{"seccomp", true, set_seccomp,
                  [](const auto &o) { return std::string(word_of(o.seccomp)); }},
        // Always in effect with pmfs: users know these from other FUSE filesystems.
        OwnOption{"allow_other", false, [](auto, auto, auto *) { return Refusal(); }},
        OwnOption{"default_permissions", false, [](auto, auto, auto *) { return Refusal(); }},
    };
    return kOptions;
}

// Options of other filesystems that users may have in fstab.  Those that describe what pmfs does
// anyway are ignored, and the others are refused with a sentence.
struct ForeignOption {
    std::string_view name;
    std::string_view value;    // "*": any, or none
    std::string_view refusal;  // empty: pass
};
constexpr ForeignOption kForeign[] = {
    {"acl", "", ""},
    {"noacl", "", "pmfs always enforces access control lists"},
    {"user_xattr", "", ""},
    {"nouser_xattr", "", "pmfs always has user attributes"},
    {"errors", "remount-ro", ""},
    {"errors", "*",
     "after an error a pmfs volume always becomes read-only, as with errors=remount-ro"},
    {"nodiscard", "", ""},
    {"discard", "", "pmfs never discards blocks of its medium"},
    {"barrier", "0", "pmfs requires flushes and fences"},
    {"barrier", "*", ""},
    {"nobarrier", "", "pmfs requires flushes and fences"},
    {"data", "ordered", ""},
    {"data", "*",
     "pmfs always stores data before it commits what refers to it, as with data=ordered"},
    {"noquota", "", ""},
    {"quota", "", "pmfs has no quotas"},
    {"usrquota", "*", "pmfs has no quotas"},
    {"grpquota", "*", "pmfs has no quotas"},
    {"prjquota", "*", "pmfs has no quotas"},
    {"usrjquota", "*", "pmfs has no quotas"},
    {"grpjquota", "*", "pmfs has no quotas"},
    {"jqfmt", "*", "pmfs has no quotas"},
    {"dax", "*", "pmfs needs no such option, because pmfs_map(3) maps the device"},
};
// The kernel's, which stand in the mount table: mount(8) hands them on to remount.
constexpr std::string_view kInTable[] = {"user_id", "group_id", "rootmode",
                                         "fd",      "max_read", "blksize"};

// Null: it is not foreign.
const ForeignOption *foreign(std::string_view name, std::optional<std::string_view> value) {
    for (const ForeignOption &option : kForeign)
        if (option.name == name && (option.value == "*" || option.value == value.value_or("")))
            return &option;
    return nullptr;
}

Refusal set_own(std::string_view name, std::optional<std::string_view> value, bool sloppy,
                ServeOptions *options) {
    for (const OwnOption &option : own_options()) {
        if (option.name != name) continue;
        // After a vhost= it is an option of pmfs; elsewhere it is one of other filesystems.
        if (name == "dax" && options->guests.empty()) break;
        if (option.has_value && !value) return fmt::format("option '{}' needs a value", name);
        if (!option.has_value && value) return fmt::format("option '{}' takes no value", name);
        return option.set(name, value.value_or(""), options);
    }
    if (const ForeignOption *known = foreign(name, value); known != nullptr) {
        if (sloppy || known->refusal.empty()) return {};
        const std::string words = value ? fmt::format("{}={}", name, *value) : std::string(name);
        return fmt::format("{}: remove the option '{}'", known->refusal, words);
    }
    const bool in_table = std::ranges::find(kInTable, name) != std::end(kInTable);
    if (sloppy || ((options->mount_flags & MS_REMOUNT) != 0 && in_table)) return {};
    return fmt::format("unknown option '{}' (see mount.pmfs(8))", name);
}

Refusal set_all_own(char *text, bool sloppy, ServeOptions *options) {
    char *name = nullptr, *value = nullptr;
    std::size_t name_size = 0, value_size = 0;
    while (text != nullptr &&
           mnt_optstr_next_option(&text, &name, &name_size, &value, &value_size) == 0) {
        std::optional<std::string_view> given;
        if (value != nullptr) given = std::string_view(value, value_size);
        if (auto refusal = set_own(std::string_view(name, name_size), given, sloppy, options))
            return refusal;
    }
    return {};
}

}  // namespace

Refusal parse_mount_options(std::string_view text, bool sloppy, ServeOptions *options) {
    char *user = nullptr, *vfs = nullptr, *own = nullptr;
    const std::string whole(text);
    // libmount ignores everything behind a quote that is not closed.
    const bool open_quote = std::ranges::count(text, '"') % 2 != 0;
    if (open_quote || mnt_split_optstr(whole.c_str(), &user, &vfs, &own, 0, 0) != 0)
        return fmt::format("cannot parse the mount options '{}' (is a quotation mark missing?)",
                           text);
    const CText user_held(user, std::free), vfs_held(vfs, std::free), own_held(own, std::free);

    unsigned long flags = 0;
    if (vfs != nullptr) mnt_optstr_get_flags(vfs, &flags, mnt_get_builtin_optmap(MNT_LINUX_MAP));
    options->mount_flags |= flags;
    if (flags & MS_RDONLY) options->volume.read_only = true;
    // The kernel accepts these flags, but they do nothing for a FUSE server's metadata.
    if (flags & MS_SYNCHRONOUS) options->dispatch.sync = true;
    if (flags & MS_DIRSYNC) options->dispatch.dirsync = true;
    return set_all_own(own, sloppy, options);
}

std::optional<std::string> refuse_remount(const ServeOptions &now, const ServeOptions &wanted) {
    const auto refusal = [](std::string_view name) {
        return fmt::format("a remount cannot change '{}': unmount it and mount it again", name);
    };
    for (const OwnOption &option : own_options())
        if (option.shown(now) != option.shown(wanted)) return refusal(option.name);
    if (wanted.dispatch.sync && !now.dispatch.sync) return refusal("sync");
    if (wanted.dispatch.dirsync && !now.dispatch.dirsync) return refusal("dirsync");
    if (now.volume.read_only && (wanted.mount_flags & MS_RDONLY) == 0)
        return "the volume was opened read-only: unmount it and mount it again to write to it";
    return {};
}

}  // namespace pmfs::front
