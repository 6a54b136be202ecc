// Media that pmfs cannot open or use: each gets the sentence that says what to do.
//
// Holds docs/devdax.md "When it does not work".
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/file_descriptor.h"
#include "mkfs/device.h"
#include "mkfs/make.h"
#include "pm/advice.h"
#include "pm/medium.h"
#include "pm/private_region.h"
#include "volume/volume.h"

using namespace pmfs;
using namespace pmfs::pm;

namespace {

class Folder {
public:
    Folder() { REQUIRE(::mkdtemp(path_.data()) != nullptr); }
    ~Folder() { std::filesystem::remove_all(path_); }
    std::string operator/(const std::string &name) const { return path_ + "/" + name; }
    void put(const std::string &name, const std::string &text) const {
        const std::filesystem::path path(path_ + "/" + name);
        std::filesystem::create_directories(path.parent_path());
        std::ofstream(path) << text;
    }
    void link(const std::string &name, const std::string &to) const {
        const std::filesystem::path path(path_ + "/" + name);
        std::filesystem::create_directories(path.parent_path());
        std::filesystem::create_directory_symlink(to, path);
    }

private:
    std::string path_ = "/tmp/t_advice.XXXXXX";
};

bool says(const Error &error, std::string_view words) {
    CAPTURE(std::string(error.what()));
    return std::string_view(error.what()).find(words) != std::string_view::npos;
}

Error refusal(const std::string &path, const OpenOptions &options = {}) {
    auto opened = open_region(path, options);
    REQUIRE_FALSE(opened.ok());
    return opened.error();
}

}  // namespace

TEST_CASE("advice: a device-DAX node that is not there may be missing, system RAM, or disabled") {
    const Folder sysfs;
    CHECK_FALSE(advice_for_missing("/dev/pmem0", sysfs / "").has_value());
    const auto missing = advice_for_missing("/dev/dax0.0", sysfs / "");
    REQUIRE(missing.has_value());
    CHECK(missing->errno_value() == ENOENT);
    CHECK(says(*missing, "ndctl create-namespace"));
    sysfs.put("bus/dax/devices/dax0.0/size", "2097152\n");
    const auto disabled = advice_for_missing("/dev/dax0.0", sysfs / "");
    REQUIRE(disabled.has_value());
    CHECK(disabled->errno_value() == ENODEV);
    CHECK(says(*disabled, "daxctl enable-device dax0.0"));
    sysfs.put("bus/dax/drivers/kmem/new_id", "");
    sysfs.link("bus/dax/devices/dax0.0/driver", sysfs / "bus/dax/drivers/kmem");
    const auto memory = advice_for_missing("/dev/dax0.0", sysfs / "");
    REQUIRE(memory.has_value());
    CHECK(says(*memory, "daxctl reconfigure-device --mode=devdax --force dax0.0"));
}

TEST_CASE("advice: a block device gets advice by its namespace's mode, or as no namespace") {
    const Folder sysfs;
    sysfs.put("devices/sda/size", "1\n");
    sysfs.link("sda/device", sysfs / "devices/sda");
    CHECK(says(advice_for_block(sysfs / "sda"), "not persistent memory"));
    struct {
        const char *device, *mode;
    } const devices[] = {{"pfn0.1", "fsdax"}, {"btt0.1", "sector"}, {"namespace0.7", "raw"}};
    for (const auto &one : devices) {
        CAPTURE(one.mode);
        const std::string device = one.device;
        sysfs.put("devices/" + device + "/namespace", "namespace0.7\n");
        sysfs.link("block-" + device + "/device", sysfs / ("devices/" + device));
        const Error error = advice_for_block(sysfs / ("block-" + device));
        CHECK(error.errno_value() == ENODEV);
        CHECK(says(error, std::string("a namespace in ") + one.mode + " mode"));
        CHECK(says(error, "--reconfig=namespace0.7"));
        CHECK(says(error, "this destroys all data on it"));
    }
}

TEST_CASE("advice: a volume that was made for smaller pages is not mounted for writing on larger") {
    const FileDescriptor fd(::memfd_create("t_advice", MFD_CLOEXEC));
    REQUIRE(::ftruncate(fd.get(), 16 << 20) == 0);
    const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
    mkfs::MakeOptions options;
    options.mapping_unit = 4096;
    REQUIRE(mkfs::make(*open_region(path, {}).take(), options).ok());
    Medium medium = look_at(fd.get()).take();
    medium.unit = 2 << 20;
    const auto mount = [&](bool read_only) {
        MountOptions how;
        how.read_only = read_only;
        how.no_background = true;
        auto region =
            PrivateRegion::make(MediumKind::devdax, FileDescriptor(::dup(fd.get())), medium);
        REQUIRE(region.ok());
        return Volume::open(std::move(region).take(), how);
    };
    const auto refused = mount(false);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().errno_value() == EINVAL);
    CHECK(says(refused.error(),
               "a mapping unit of 4 KiB, but is now on a medium with pages of 2 MiB"));
    CHECK(mount(true).ok());
}

TEST_CASE("region: the error says why a path cannot be opened") {
    const Folder folder;
    folder.put("mine", "x");
    REQUIRE(::chmod((folder / "mine").c_str(), 0600) == 0);
    REQUIRE(::chmod((folder / "").c_str(), 0755) == 0);
    OpenOptions reads;
    reads.read_only = true;
    if (::geteuid() == 0) {
        ::setfsuid(1000);  // of this thread
        const Error write = refusal(folder / "mine"), read = refusal(folder / "mine", reads);
        ::setfsuid(0);
        CHECK(write.errno_value() == EACCES);
        CHECK(says(write, "no permission to write"));
        CHECK(says(read, "no permission to read"));
    }
    // A program that runs.
    std::filesystem::copy_file("/bin/sleep", folder / "program");
    int begun[2];
    REQUIRE(::pipe2(begun, O_CLOEXEC) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        ::execl((folder / "program").c_str(), "sleep", "60", nullptr);
        ::_exit(127);
    }
    ::close(begun[1]);
    char none;
    CHECK(::read(begun[0], &none, 1) == 0);  // the other end went with exec
    ::close(begun[0]);
    const auto busy = open_region(folder / "program", {});
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    REQUIRE_FALSE(busy.ok());
    CHECK(busy.error().errno_value() == ETXTBSY);
    // A socket without a listener, and a name that is too long.
    const FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (folder / "socket").c_str(), sizeof address.sun_path - 1);
    REQUIRE(::bind(socket.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) == 0);
    CHECK(refusal(folder / "socket").errno_value() == ENODEV);
    CHECK(refusal(folder / std::string(300, 'n')).errno_value() == ENAMETOOLONG);
    CHECK(refusal(folder / "").errno_value() == EISDIR);
}

TEST_CASE("mkfs: --volatile refuses memory of an NVDIMM bus, but for what memmap= set aside") {
    const Folder sysfs;
    const auto node_on = [&sysfs](const std::string &bus, const std::string &provider) {
        sysfs.put(bus + "/provider", provider + "\n");
        sysfs.put(bus + "/region0/dax0.1/dax0/dax0.0/size", "67108864\n");
        return sysfs / (bus + "/region0/dax0.1/dax0/dax0.0");
    };
    for (const char *provider : {"ACPI.NFIT", "CXL", "of_pmem", ""}) {
        CAPTURE(provider);
        const auto refused = mkfs::require_volatile_dax(
            node_on(std::string("devices/acpi") + provider + "/ndbus0", provider));
        REQUIRE_FALSE(refused.ok());
        CHECK(says(refused.error(), "persistent memory, and --volatile"));
    }
    CHECK(mkfs::require_volatile_dax(node_on("devices/platform/e820_pmem/ndbus1", "e820")).ok());
    sysfs.put("devices/platform/hmem.0/dax2.0/size", "67108864\n");
    CHECK(mkfs::require_volatile_dax(sysfs / "devices/platform/hmem.0/dax2.0").ok());
    CHECK_FALSE(mkfs::require_volatile_dax(sysfs / "nothing").ok());
    CHECK_FALSE(mkfs::require_volatile("/dev/shm").ok());
}
