// FS_IOC_GETFLAGS and its kin, which chattr(1) and lsattr(1) use.
#pragma once
#include "front/requests/ioctl.h"

namespace pmfs::front {

bool is_flags_ioctl(unsigned command);
// As handle_ioctl().  `argument`: the ioctl's argument, as the kernel passes it.
void handle_flags_ioctl(IoctlContext &context, const IoctlRequest &request, std::uint64_t argument,
                        IoctlDone done);

}  // namespace pmfs::front
