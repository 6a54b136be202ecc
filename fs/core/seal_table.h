// The table of docs/seal.md: what may be done to a file's block map, in which state. It is a pure
// function: states in, an answer out.
//
// A file is P (sealed), T (temporary grants), B (breakable leases), R (pinned ranges), or several
// at once: P, T and R can be combined, and B with P or R.
#pragma once
#include <array>

namespace pmfs::core {

// What a request wants to do.
enum class Move {
    grow,      // the size, without allocating
    allocate,  // holes and unwritten blocks become written, or blocks are added
    truncate,  // in either direction
    punch,     // holes or zeroes where data was; collapse and insert
    relocate,  // other blocks for the same bytes (prepare, defragment)
    reap,      // the last name is removed, and no process has it open
    seal,      // or a higher level of sealing
    unseal,
    take_temporary,
    take_breakable,
    pin,
};
inline constexpr std::size_t kMoves = 11;

// The state of a file when a request arrives.
struct Standing {
    bool sealed = false;       // P
    bool temporary = false;    // T
    bool breakable = false;    // B
    bool pinned = false;       // R, anywhere in the file
    bool pinned_here = false;  // R, in the blocks that the move reaches
    bool lost = false;         // a direct mapping that outlived its grant may live

    bool granted() const { return temporary || breakable || pinned; }
};

enum class Answer {
    go,
    text_busy,  // ETXTBSY
    invalid,    // EINVAL
    busy,       // EBUSY
    ask,        // the leases must be given back first, within their time; then it may continue
};

Answer answer(const Standing &standing, Move move);

}  // namespace pmfs::core
