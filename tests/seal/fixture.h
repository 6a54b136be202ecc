// A fresh volume in this process, with a Wire to it; and what tests of seals say about files.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "volume/volume.h"
#include "wire.h"

namespace pmfs::test {

enum class Medium { memory, image };
const char *name_of(Medium medium);

inline constexpr std::uint64_t kBlock = 4096;

class Mounted {
public:
    explicit Mounted(Medium medium, const MountOptions &options = {},
                     const front::DispatchOptions &dispatch = {});
    ~Mounted();

    Wire &wire() { return *wire_; }
    Volume &volume() { return *volume_; }
    // As after SIGKILL: nothing is closed, and the next mount recovers.
    void crash() { stop(/*crash=*/true), start(); }
    void remount(const MountOptions &options) { stop(false), options_ = options, start(); }

private:
    void start();
    void stop(bool crash);

    FileDescriptor file_;
    MountOptions options_;
    front::DispatchOptions dispatch_;
    std::unique_ptr<Volume> volume_;
    std::unique_ptr<Wire> wire_;
};

// The interfaces of docs/seal.md that reach the server by FUSE.
enum class Interface { ioctl, fallocate, trusted_xattr, user_xattr };
inline constexpr Interface kInterfaces[] = {Interface::ioctl, Interface::fallocate,
                                            Interface::trusted_xattr, Interface::user_xattr};
const char *name_of(Interface interface);
// The fallocate interface has one level, full.
bool has_level(Interface interface, unsigned level);
int seal_by(Interface interface, Wire &wire, const OpenFile &file, unsigned level, As as = {});
int unseal_by(Interface interface, Wire &wire, const OpenFile &file, As as = {});

int seal_ioctl(Wire &wire, const OpenFile &file, unsigned level,
               std::uint64_t *bad_offset = nullptr, As as = {});
int unseal_ioctl(Wire &wire, const OpenFile &file, As as = {});
int prepare_ioctl(Wire &wire, const OpenFile &file, std::uint64_t unit = 0, As as = {});
pmfs_info info_of(Wire &wire, const OpenFile &file);

// All that a seal promises to keep, and the bytes.
struct Snapshot {
    std::uint64_t size = 0;
    std::string digest;
    std::vector<std::string> extents;  // offset device length flags
    std::string data;

    bool same_map(const Snapshot &other) const {
        return size == other.size && digest == other.digest && extents == other.extents;
    }
    bool operator==(const Snapshot &other) const { return same_map(other) && data == other.data; }
};
Snapshot look(Wire &wire, const OpenFile &file);

std::string pattern(std::size_t size, unsigned seed);

// One square of the table of docs/seal.md: counted, and named when it fails.
void cell(const std::string &what, bool holds);
unsigned cells_seen();

}  // namespace pmfs::test
