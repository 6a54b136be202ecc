// The table of docs/seal.md: who may do what to a file's block map, in which state. It is a pure
// function: states in, an answer out.
//
// A file is P (sealed), T (temporary grants), B (breakable leases), R (pinned ranges), or several
// at once: P, T and R can be combined, and B with P or R.
#pragma once
#include <array>

namespace pmfs::core {

// What somebody wants to do.
enum class Move {
    grow,      // the size, without allocating
    allocate,  // holes and unwritten blocks become written, or blocks are added
    truncate,  // in either direction
    punch,     // holes or zeroes where data was; collapse and insert
    relocate,  // other blocks for the same bytes (prepare, defragment)
    reap,      // the last name is gone, nobody has it open
    seal,      // or a higher level of sealing
    unseal,
    take_temporary,
    take_breakable,
    pin,
};
inline constexpr std::size_t kMoves = 11;

// How a file stands when somebody comes.
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
    ask,        // the leases are to be given back first, within their time; then it goes
};

Answer answer(const Standing &standing, Move move);

}  // namespace pmfs::core
