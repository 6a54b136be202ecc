// The two fallocate modes of docs/seal.md, as they arrive: together with KEEP_SIZE, so that no
// kernel on the way takes them for a change of size.
#pragma once

namespace pmfs {

inline constexpr unsigned kSealMode = 0x01000000 | 0x1;
inline constexpr unsigned kUnsealMode = 0x02000000 | 0x1;

}  // namespace pmfs
