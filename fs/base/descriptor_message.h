// Descriptors that travel with bytes over a local socket (unix(7), SCM_RIGHTS).
#pragma once
#include <sys/types.h>

#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/file_descriptor.h"

namespace pmfs {

// As many as the kernel lets one message have (SCM_MAX_FD).
inline constexpr std::size_t kDescriptorsMax = 253;

// As send(2), without SIGPIPE.  The descriptors stay the caller's.
ssize_t send_with(int socket, ConstBytes bytes, std::span<const int> fds, int flags);

// As recv(2); what comes with it is appended, closed on exec.  EMFILE: some did not fit into this
// process, and are lost.
ssize_t receive_with(int socket, Bytes to, std::vector<FileDescriptor> *fds, int flags);

}  // namespace pmfs
