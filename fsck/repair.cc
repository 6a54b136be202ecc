// The repairs: see repair.h.
#include "fsck/repair.h"

#include "base/bytes.h"
#include "media/verify.h"

namespace pmfs::fsck {

using namespace media;

Result<> repair(pm::Region &region, Report &report) {
    pm::FaultScope faults;
    Superblock sb = TRY(find_superblock({region.meta(), region.size()})).sb;
    for (Problem &problem : report.problems) {
        if (problem.code != Code::superblock_damaged &&
            problem.code != Code::superblock_copy_damaged &&
            problem.code != Code::superblock_copy_differs)
            continue;
        sb.header = header_of(Magic::superblock, sb.header.fsid.get(), problem.block, 0);
        seal_block(sb);
        region.fence(region.write(problem.block * kBlockSize, bytes_of(sb)));
        if (!region.keeps(problem.block * kBlockSize, bytes_of(sb)))
            return Error(EROFS, "the medium does not keep data that is written to it");
        problem.repaired = true;
        ++report.repaired;
    }
    if (report.repaired != 0 && region.is_image()) TRY(region.sync());
    if (faults.met()) return Error(EIO, "the medium does not keep data that is written to it");
    return {};
}

}  // namespace pmfs::fsck
