// A fresh volume in memory and a Wire to it, whose pages a test may make bad.
#pragma once
#include <memory>

#include "seal/wire.h"
#include "volume/volume.h"

namespace pmfs::test {

class World {
public:
    explicit World(const front::DispatchOptions &dispatch = {}, const MountOptions &options = {});
    ~World();

    Wire &wire() { return *wire_; }
    Volume &volume() { return *volume_; }
    pm::Region &region() { return *region_; }

    // The page that holds this byte of the medium raises SIGBUS from now on.
    void make_bad(std::uint64_t offset);
    // Where on the medium an inode is.
    std::uint64_t place_of_inode(std::uint64_t ino) const;
    // Where on the medium a file's first byte is.
    std::uint64_t place_of_data(std::uint64_t ino);

private:
    pm::Region *region_;  // the volume's
    std::unique_ptr<Volume> volume_;
    std::unique_ptr<Wire> wire_;
};

}  // namespace pmfs::test
