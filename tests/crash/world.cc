// Looking at a volume and judging what a crash left: see world.h.
#include "world.h"

#include <sys/stat.h>

#include <cstring>

namespace pmfs::test {

bool Thing::same_metadata(const Thing &o, bool size_too) const {
    return mode == o.mode && nlink == o.nlink && uid == o.uid && gid == o.gid && rdev == o.rdev &&
           (!size_too || size == o.size) && target == o.target && xattrs == o.xattrs &&
           seal == o.seal;
}

namespace {

Result<Thing> look_at_one(Volume &volume, const Attr &attr) {
    Thing t{attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev, attr.size, {}, {}, {}, {}};
    if (S_ISDIR(attr.mode)) t.size = 0;
    if (S_ISLNK(attr.mode)) t.target = TRY(volume.readlink(attr.ino));
    const std::string names = TRY(volume.listxattr(attr.ino));
    for (std::size_t at = 0; at < names.size();) {
        const std::string name(names.c_str() + at);
        at += name.size() + 1;
        const auto value = TRY(volume.getxattr(attr.ino, name));
        t.xattrs[name].assign(reinterpret_cast<const char *>(value.data()), value.size());
    }
    if (!S_ISREG(attr.mode)) return t;
    t.seal = TRY(volume.file_info(attr.ino)).seal;
    t.data.reserve(attr.size);
    while (t.data.size() < attr.size) {
        const auto n = TRY(volume.read(attr.ino, t.data.size(), 1 << 20, [&](auto pieces) {
            for (const iovec &p : pieces) {
                const auto *from = static_cast<const std::byte *>(p.iov_base);
                t.data.insert(t.data.end(), from, from + p.iov_len);
            }
        }));
        if (n == 0) return Error(EIO, "a file is shorter than its size");
    }
    return t;
}

Result<> walk(Volume &volume, InodeNo dir, const std::string &path, World &world) {
    std::vector<std::string> names;
    TRY(volume.readdir(dir, 2, [&](const DirEntry &e) {
        names.emplace_back(e.name);
        return true;
    }));
    for (const std::string &name : names) {
        const Attr attr = TRY(volume.lookup(dir, name));
        const std::string below = path + "/" + name;
        if (!world.emplace(below, TRY(look_at_one(volume, attr))).second)
            return Error(EUCLEAN, "a name stands twice in a directory");
        if (S_ISDIR(attr.mode)) TRY(walk(volume, attr.ino, below, world));
        volume.forget(attr.ino, 1);
    }
    return {};
}

}  // namespace

Result<World> look_at(Volume &volume) {
    World world;
    const InodeNo root(media::kRootIno);
    world.emplace("", TRY(look_at_one(volume, TRY(volume.getattr(root)))));
    TRY(walk(volume, root, "", world));
    return world;
}

namespace {

std::uint64_t word_at(const std::vector<std::byte> &data, std::size_t at) {
    std::uint64_t w = 0;
    if (at < data.size())
        std::memcpy(&w, data.data() + at, std::min<std::size_t>(8, data.size() - at));
    return w;
}

// Bytes of a word that both are long enough to have must come from one of the sources.
std::string judge_data(const std::string &path, const Thing &found,
                       const std::vector<const World *> &sources) {
    std::vector<const std::vector<std::byte> *> datas;
    for (const World *w : sources)
        if (const auto it = w->find(path); it != w->end()) datas.push_back(&it->second.data);
    for (std::size_t at = 0; at < found.data.size(); at += 8) {
        const std::size_t n = std::min<std::size_t>(8, found.data.size() - at);
        const std::uint64_t mask = n == 8 ? ~0ull : (1ull << (8 * n)) - 1;
        const std::uint64_t word = word_at(found.data, at) & mask;
        bool known = false;
        for (const auto *data : datas) known = known || (word_at(*data, at) & mask) == word;
        if (known) continue;
        // A word that the end of the old file cuts in two: old bytes, and new ones or zeroes
        // behind.
        for (const auto *old : datas) {
            if (old->size() <= at || old->size() >= at + 8) continue;
            const std::uint64_t head = (1ull << (8 * (old->size() - at))) - 1;
            for (const auto *data : datas)
                known = known || (((word_at(*old, at) & head) | (word_at(*data, at) & ~head)) &
                                  mask) == word;
        }
        if (!known) {
            char text[200];
            std::snprintf(text, sizeof text, "%s: bytes at %zu are %016llx, of neither state",
                          path.c_str(), at, static_cast<unsigned long long>(word));
            return text;
        }
    }
    return "";
}

std::string compare(const World &found, const World &state, const World *was, const World *now,
                    bool prefix) {
    for (const auto &[path, thing] : state) {
        const auto it = found.find(path);
        if (it == found.end()) return path + " is missing";
        if (it->second.same_metadata(thing, true)) continue;
        bool between = false;
        if (prefix && it->second.same_metadata(thing, false) && was && now) {
            const auto a = was->find(path), b = now->find(path);
            if (a != was->end() && b != now->end())
                between = a->second.size <= it->second.size && it->second.size <= b->second.size;
        }
        if (!between) return path + " has other metadata";
    }
    for (const auto &[path, thing] : found)
        if (!state.contains(path)) return path + " should not be there";
    return "";
}

}  // namespace

std::string judge(const World &found, const std::vector<const World *> &metadata_of,
                  const std::vector<const World *> &data_of, bool prefix) {
    std::string why;
    bool matches = false;
    for (const World *state : metadata_of) {
        const std::string differs =
            compare(found, *state, metadata_of.front(), metadata_of.back(), prefix);
        matches = matches || differs.empty();
        if (!differs.empty()) why += (why.empty() ? "" : "; or ") + differs;
    }
    if (!matches) return why;
    for (const auto &[path, thing] : found)
        if (auto bad = judge_data(path, thing, data_of); !bad.empty()) return bad;
    return "";
}

std::string judge(const World &found, const World &was, const World &now, bool prefix) {
    const std::vector<const World *> both{&was, &now};
    return judge(found, both, both, prefix);
}

}  // namespace pmfs::test
