// Whether a message has the contents that its opcode requires.
//
// libfuse trusts every length, and that every name has an end. /dev/fuse sends only whole messages,
// but a guest can write anything to a virtqueue: so each message is measured before libfuse, or
// anything else, reads past its header.
#pragma once
#include <cstdint>
#include <optional>

#include "base/bytes.h"

namespace pmfs::front {

// The largest payload of one request or reply, as agreed in INIT.
inline constexpr std::size_t kPayloadMax = std::size_t{1} << 20;

// 0: it may be read.  Else what to answer: EINVAL (too short, a name without its end, a size that
// is not its own, a reply larger than kPayloadMax), ENOSYS (no such request here), EPROTO (INIT of
// a protocol older than 7.31 or newer than 7).  `apart`: the size of a WRITE's payload, where that
// is not in `message`.  `long_setxattr`: FUSE_SETXATTR_EXT was agreed on.
int check_message(ConstBytes message, std::size_t apart = 0, bool long_setxattr = false);

// False for requests that nobody answers (and for what is too short to have a number).
bool has_reply(ConstBytes message);

// What a request does to the volume.
enum class Effect : std::uint8_t { unsaid, none, changes, by_argument };
// `unsaid`: there is no such request here.
Effect effect_of(std::uint32_t opcode);
// Whether this message, which was checked, may change anything.  (An ioctl's command says that.)
bool may_change(ConstBytes message);

// What a message that was checked is about.  The client must hold all of it.
struct Subject {
    std::optional<std::uint64_t> node;              // in its header; none: of the whole filesystem
    std::optional<std::uint64_t> other_node;        // a directory to rename into, a file to link
    std::optional<std::uint64_t> handle;            // an open file of `node`
    bool writes = false;                            // by that handle
    bool by_number = false;                         // asks whether `node` exists: LOOKUP of "."
    bool gives_node = false, gives_handle = false;  // to the client
};
Subject subject_of(ConstBytes message);

// Where a checked message has other_node; 0: nowhere.
std::size_t other_node_place(ConstBytes message);
// The message gives something back, or is of nobody: it does not matter who sends it.
bool from_anybody(ConstBytes message);
// A WRITE by the client's kernel, for whoever stored.
bool written_back(ConstBytes message);

// Whether all that such a request does before its first commit may be done again.  The end of a
// handle or of a grant is not among them, nor what asks others first.
bool may_run_again(std::uint32_t opcode);

}  // namespace pmfs::front
