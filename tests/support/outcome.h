// Which of the stores that a power cut left undecided reached the medium: drawn from a seed.
#pragma once
#include <cstddef>
#include <cstdint>

namespace pmfs::test {

// Uniform draws alone find few bugs: with twenty lines waiting, "all but the one that matters" is
// one draw in a million.  So a seed first chooses a manner.
class Outcome {
public:
    // `units` lines or sectors are undecided.
    Outcome(unsigned seed, std::size_t units);

    // For the next unit, which has `ordered` stores whose prefixes are possible, one after the
    // other: how many of them are there whole.
    std::size_t next_unit(std::size_t ordered);
    // Of the store after those, or of one that has no order: which of its words are there.
    std::uint64_t words();

private:
    enum class Manner { nothing, everything, independent, whole_units, only_one, all_but_one };
    std::uint64_t random();
    std::uint64_t below(std::uint64_t limit) { return limit == 0 ? 0 : random() % limit; }

    std::uint64_t state_;
    Manner manner_;
    std::size_t chosen_ = 0;  // the one of only_one and all_but_one
    std::size_t unit_ = 0;
    bool all_ = false;   // this unit is there whole ...
    bool none_ = false;  // ... or not at all
};

}  // namespace pmfs::test
