// The volume's values as the kernel's structs.
#pragma once
#include <sys/stat.h>

#include "front/requests/dispatcher.h"
#include "front/requests/fuse_api.h"
#include "volume/types.h"

namespace pmfs::front {

// Attributes as the client sees them: with its own user ids.
Attr shown(const Attr &attr, const Client &client);
struct stat to_stat(const Attr &attr, const Client &client);
// How long the kernel may cache them.
inline double attr_timeout(const Attr &attr, const Dispatcher &dispatcher) {
    constexpr double kMoment = 1;
    const double most = dispatcher.options().attr_timeout_s;
    if (attr.unsettled) return 0;
    return dispatcher.timeout(attr.kept_back && most > kMoment ? kMoment : most);
}
fuse_entry_param to_entry(const Attr &attr, Dispatcher &dispatcher);
// The value of an attribute, with the users and groups of an access control list translated; in
// `made` if it differs.  Nothing: one of them does not exist on the volume.
ConstBytes xattr_out(std::string_view name, ConstBytes value, const Client &client,
                     std::vector<std::byte> *made);
std::optional<ConstBytes> xattr_in(std::string_view name, ConstBytes value, const Client &client,
                                   std::vector<std::byte> *made);
// `info`: of the open file in use; null: none.
Caller caller_of(fuse_req_t req, const fuse_file_info *info = nullptr);

inline struct timespec to_timespec(const Timespec &time) {
    return {static_cast<time_t>(time.seconds), static_cast<long>(time.nanoseconds)};
}
inline Timespec from_timespec(const struct timespec &time) {
    return {time.tv_sec, static_cast<std::uint32_t>(time.tv_nsec)};
}

}  // namespace pmfs::front
