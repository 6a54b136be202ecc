// Draws of outcomes: small, and the same on every machine.
#include "support/outcome.h"

namespace pmfs::test {

namespace {
constexpr std::uint64_t kEveryWord = ~std::uint64_t{0};
}

Outcome::Outcome(unsigned seed, std::size_t units)
    : state_(std::uint64_t{seed} * 0x9e3779b97f4a7c15u + units) {
    if (seed < 2) {
        manner_ = seed == 0 ? Manner::nothing : Manner::everything;
        return;
    }
    constexpr Manner kManners[] = {Manner::all_but_one, Manner::independent, Manner::only_one,
                                   Manner::whole_units};
    manner_ = kManners[seed % 4];
    chosen_ = below(units);
}

// SplitMix64 (Steele, Lea and Flood, 2014).
std::uint64_t Outcome::random() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

std::size_t Outcome::next_unit(std::size_t ordered) {
    const bool is_chosen = unit_++ == chosen_;
    all_ = none_ = false;
    switch (manner_) {
        case Manner::nothing:
            none_ = true;
            break;
        case Manner::everything:
            all_ = true;
            break;
        case Manner::whole_units:
            (random() % 2 == 0 ? all_ : none_) = true;
            break;
        case Manner::only_one:
            none_ = !is_chosen;
            break;
        case Manner::all_but_one:
            all_ = !is_chosen;
            break;
        case Manner::independent:
            break;
    }
    // Half of the time the chosen unit is whole (or missing), else torn like an independent one.
    if (is_chosen && manner_ == Manner::only_one) all_ = random() % 2 == 0;
    if (is_chosen && manner_ == Manner::all_but_one) none_ = random() % 2 == 0;
    if (all_) return ordered;
    return none_ ? 0 : below(ordered + 1);
}

std::uint64_t Outcome::words() {
    if (all_) return kEveryWord;
    if (none_) return 0;
    switch (random() % 4) {
        case 0:
            return 0;
        case 1:
            return kEveryWord;
        default:
            return random();
    }
}

}  // namespace pmfs::test
