// FS_IOC_GETFLAGS and its kin, by which chattr(1) and lsattr(1) ask.
#pragma once
#include "front/requests/ioctl.h"

namespace pmfs::front {

bool is_flags_ioctl(unsigned command);
// As handle_ioctl().  `argument`: what the program gave with the command, as the kernel says.
void handle_flags_ioctl(IoctlContext &context, const IoctlRequest &request, std::uint64_t argument,
                        IoctlDone done);

}  // namespace pmfs::front
