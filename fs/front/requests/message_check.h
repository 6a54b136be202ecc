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

// 0: it may be read.  Otherwise the error to answer: EINVAL (too short, a name without its end, a
// size that is not its own, a reply larger than kPayloadMax, a time that is none), ENOSYS (no such
// request here), EPROTO (INIT of a protocol older than 7.31 or newer than 7).  `apart`: the size of
// a WRITE's payload, where that is not in `message`.  `long_setxattr`: FUSE_SETXATTR_EXT was agreed
// on.
int check_message(ConstBytes message, std::size_t apart = 0, bool long_setxattr = false);

// False for requests without an answer (and for messages that are too short to have a number).
bool has_reply(ConstBytes message);

// What a request does to the volume.
enum class Effect : std::uint8_t { unsaid, none, changes, by_argument };
// `unsaid`: there is no such request here.
Effect effect_of(std::uint32_t opcode);
// Whether this message, which was checked, may change anything.  (For an ioctl, see its command.)
bool may_change(ConstBytes message);

// The objects that a checked message names.  The client must hold all of them.
struct Subject {
    std::optional<std::uint64_t> node;              // in its header; none: of the whole filesystem
    std::optional<std::uint64_t> other_node;        // a directory to rename into, a file to link
    std::optional<std::uint64_t> handle;            // an open file of `node`
    bool writes = false;                            // by that handle
    bool by_number = false;                         // LOOKUP of ".": asks whether `node` exists
    bool gives_node = false, gives_handle = false;  // to the client
};
Subject subject_of(ConstBytes message);

// The offset of other_node in a checked message; 0: it has none.
std::size_t other_node_place(ConstBytes message);
// The message releases something, or concerns no user: its sender does not matter.
bool from_anybody(ConstBytes message);
// A WRITE by the client's kernel, on behalf of an unknown user.
bool written_back(ConstBytes message);

// Whether everything that such a request does before its first commit may be repeated.  Not so for
// the end of a handle or of a grant, nor for requests that ask other processes first.
bool may_run_again(std::uint32_t opcode);

}  // namespace pmfs::front
