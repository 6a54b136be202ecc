// Space: every block has one owner, and bitmaps, chunk kinds and counts say the same.
//
// The walks claim what they find; finish() compares the claims with the bitmaps.
#pragma once
#include <cstdint>
#include <vector>

#include "fsck/context.h"
#include "fsck/lazy_array.h"

namespace pmfs::fsck {

class Space {
public:
    explicit Space(Context &context) : context_(context) {}

    // Reads the groups' summaries and bitmaps, and claims what has a fixed place.
    Result<> start();

    // `owner` (an inode, or Problem::kNone for the volume) uses these blocks, which are inside the
    // volume, as `kind`.  False: one of them has an owner already; it was reported.
    bool claim(std::uint64_t start, std::uint64_t blocks, media::ChunkKind kind,
               std::uint64_t owner);

    // How far from `start` on, up to `end`, the blocks all have an owner or all have none, as
    // `start` has.  start < end <= the volume's end.
    struct Stretch {
        std::uint64_t end;
        bool owned;
    };
    Stretch stretch(std::uint64_t start, std::uint64_t end) const;

    void finish();

private:
    struct Group {
        const media::Summary *summary = nullptr;  // the copy that is believed
    };
    struct Run {  // neighbours with the same problem are reported as one
        Code code{};
        std::uint64_t start = 0, blocks = 0;
    };

    void read_group(std::uint64_t group);
    void read_summaries(std::uint64_t group, const media::GroupLayout &layout);
    void check_summary(std::uint64_t group, const media::Summary &summary);
    void claim_fixed();
    void check_kinds(std::uint64_t start, std::uint64_t blocks, media::ChunkKind kind,
                     std::uint64_t owner);
    bool kind_known(std::uint64_t chunk, media::ChunkKind *kind) const;
    void finish_group(std::uint64_t group);
    // Bits in use of a chunk as its bitmap says.
    unsigned finish_chunk(std::uint64_t chunk, const media::le64 (&bits)[8], bool free);
    void compare_bits(std::uint64_t block, std::uint64_t wrong, Code code);
    void end_run();

    Context &context_;
    std::vector<Group> groups_;
    LazyArray<std::uint64_t> owned_;  // one bit a block
    Run run_;
};

}  // namespace pmfs::fsck
