// JSON on standard output, and holders as JSON.
#include "json.h"

#include <fmt/format.h>

#include <cstdio>

#include "file.h"
#include "verbs.h"

namespace pmfs::ctl {
namespace {

// Paths may contain any bytes, JSON may not; and ASCII cannot control a terminal.
constexpr auto kReplace = Json::error_handler_t::replace;

const char *kind_key(std::uint32_t kind) {
    switch (kind) {
        case PMFS_HOLDER_TEMPORARY:
            return "temporary";
        case PMFS_HOLDER_BREAKABLE:
            return "breakable";
        case PMFS_HOLDER_PIN:
            return "pin";
        case PMFS_HOLDER_QUARANTINED:
            return "quarantined";
        case PMFS_HOLDER_HANDLE_CACHED:
            return "handle_cached";
        case PMFS_HOLDER_HANDLE_DIRECT:
            return "handle_direct";
        default:
            return "unknown";
    }
}

}  // namespace

int print(const Json &json) {
    fmt::print("{}\n", json.dump(2, ' ', true, kReplace));
    return kDone;
}

int print_line(const Json &json) {
    fmt::print("{}\n", json.dump(-1, ' ', true, kReplace));
    std::fflush(stdout);
    return kDone;
}

Json to_json(const pmfs_holder &holder) {
    const Process process = process_of_thread(holder.pid);
    Json json = {{"kind", kind_key(holder.kind)},
                 {"pid", process.pid != 0 ? process.pid : holder.pid},
                 {"process", process.name},
                 {"uid", holder.uid},
                 {"stores", (holder.flags & PMFS_HOLDER_STORES) != 0},
                 {"handle", holder.handle}};
    if (holder.id != 0) {
        json[holder.kind == PMFS_HOLDER_QUARANTINED ? "quarantine" : "grant"] = holder.id;
        json["offset"] = holder.offset;
        json["length"] = holder.length;
        json["maps"] = (holder.flags & PMFS_HOLDER_MAPS) != 0;
        json["breaking"] = (holder.flags & PMFS_HOLDER_BREAKING) != 0;
    }
    return json;
}

}  // namespace pmfs::ctl
