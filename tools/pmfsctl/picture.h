// A picture of a whole region, for a person: where metadata and data are, and how full.
#pragma once
#include <string>
#include <vector>

#include "pmfs.h"

namespace pmfs::ctl {

struct PictureStyle {
    bool color = false;
    bool ascii = false;
    unsigned width = 80;     // columns
    unsigned rows_max = 24;  // of cells; then a cell stands for several chunks
};

std::string draw(const pmfs_volume &volume, const std::vector<pmfs_chunk> &chunks,
                 const PictureStyle &style);

}  // namespace pmfs::ctl
