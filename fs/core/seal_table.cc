// The table itself: a row a move, a column a state, as docs/seal.md prints it.
#include "core/seal_table.h"

#include "base/assert.h"

namespace pmfs::core {

namespace {

struct Row {
    Move move;
    Answer p, t, b;
    Answer r;         // pins elsewhere in the file
    Answer r_here;    // pins in the blocks that the move reaches
    bool map = true;  // it changes the map: a pin keeps leases from being broken for it
};

constexpr Answer go = Answer::go, txt = Answer::text_busy, inv = Answer::invalid,
                 bsy = Answer::busy, ask = Answer::ask;

constexpr Row kTable[kMoves] = {
    // move                P    T    B    R    R here
    {Move::grow, txt, txt, ask, go, go},
    {Move::allocate, txt, txt, ask, go, txt},
    {Move::truncate, txt, txt, ask, go, txt},
    {Move::punch, txt, txt, ask, go, txt},
    {Move::relocate, inv, inv, inv, go, inv},
    {Move::reap, go, txt, txt, txt, txt},
    {Move::seal, go, go, bsy, go, go, false},
    {Move::unseal, go, bsy, bsy, bsy, bsy, false},  // of a sealed file; otherwise it does nothing
    {Move::take_temporary, go, go, bsy, go, go, false},
    {Move::take_breakable, go, bsy, go, go, go, false},
    {Move::pin, go, go, go, go, go, false},
};

constexpr bool in_order() {
    for (std::size_t i = 0; i < kMoves; ++i)
        if (static_cast<std::size_t>(kTable[i].move) != i) return false;
    return true;
}
static_assert(in_order());

}  // namespace

Answer answer(const Standing &standing, Move move) {
    const auto index = static_cast<std::size_t>(move);
    PMFS_ASSERT(index < kMoves);
    const Row &row = kTable[index];
    if (move == Move::unseal && !standing.sealed) return go;
    // Its blocks are quarantined, so a change of the map is harmless; but the mapping may rely on
    // the seal.
    if (move == Move::unseal && standing.lost) return bsy;
    // First the answers that never wait.
    if (standing.sealed && row.p != go) return row.p;
    if (standing.temporary && row.t != go) return row.t;
    if (standing.pinned_here && row.r_here != go) return row.r_here;
    if (standing.pinned && row.r != go) return row.r;
    if (!standing.breakable) return go;
    if (row.b == ask && standing.pinned) return txt;  // a pin cannot be given back
    return row.b;
}

}  // namespace pmfs::core
