// Superblocks read through open_region(), without the volume's lock.
#include "probe/identity.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/bytes.h"
#include "base/hex.h"
#include "media/verify.h"
#include "pm/advise.h"
#include "pm/region.h"

namespace pmfs::probe {
namespace {

namespace fs = std::filesystem;

bool is_node(const std::string &name) {
    constexpr std::string_view kPrefix = "dax";
    return name.starts_with(kPrefix) &&
           name.find_first_not_of("0123456789.", kPrefix.size()) == std::string::npos;
}

// Each device or file once, even if it has several names.
std::set<std::string> candidates(const std::string &devices) {
    std::set<std::string> found;
    std::error_code error;
    for (const auto &entry : fs::directory_iterator(devices, error))
        if (is_node(entry.path().filename())) found.insert(entry.path());
    for (const char *kind : {"/pmfs/by-label", "/pmfs/by-uuid"})
        for (const auto &entry : fs::directory_iterator(devices + kind, error)) {
            const fs::path real = fs::canonical(entry.path(), error);
            if (!error) found.insert(real);  // (otherwise the link is dangling)
        }
    return found;
}

std::string lower(std::string text) {
    for (char &c : text)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return text;
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// With each \xNN replaced by the byte NN.
std::string unescaped(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const bool escape = text.size() >= 4 && text.starts_with("\\x") &&
                            hex_digit(text[2]) >= 0 && hex_digit(text[3]) >= 0;
        out += escape ? static_cast<char>(hex_digit(text[2]) << 4 | hex_digit(text[3])) : text[0];
        text.remove_prefix(escape ? 4 : 1);
    }
    return out;
}

bool is_named(const Identity &identity, const Name &name) {
    if (name.kind == Name::Kind::uuid) return uuid_text(identity.uuid) == lower(name.text);
    return identity.label == name.text || identity.label == unescaped(name.text);
}

}  // namespace

Result<Identity> identify(const std::string &path) {
    pm::OpenOptions options;
    options.read_only = true;
    options.exclusive = false;
    const auto region = TRY(pm::open_region(path, options));
    const pm::ScatteredAccess scattered(*region);
    const auto found = TRY(media::find_superblock(ConstBytes(region->data(), region->size())));
    Identity identity;
    const auto *label = reinterpret_cast<const char *>(found.sb.label);
    identity.label.assign(label, ::strnlen(label, sizeof found.sb.label));
    std::memcpy(identity.uuid.data(), found.sb.uuid, identity.uuid.size());
    identity.size = found.sb.block_count.get() * media::kBlockSize;
    identity.mapping_unit = found.sb.mapping_unit.get();
    return identity;
}

std::optional<Name> name_in(std::string_view source) {
    using enum Name::Kind;
    constexpr struct {
        std::string_view prefix;
        Name::Kind kind;
    } kForms[] = {{"label:", label}, {"LABEL=", label}, {"uuid:", uuid}, {"UUID=", uuid}};
    for (const auto &form : kForms)
        if (source.starts_with(form.prefix))
            return Name{form.kind, std::string(source.substr(form.prefix.size()))};
    return {};
}

Found find_volume(const Name &name, const std::string &devices) {
    const bool by_label = name.kind == Name::Kind::label;
    const std::string what = by_label ? "label " : "UUID ";
    if (name.text.empty()) return {"", "the " + what + "of the volume is empty"};
    std::vector<std::string> found;
    std::string others;
    for (const std::string &path : candidates(devices)) {
        const auto identity = identify(path);
        if (!identity.ok()) {
            others += "; " + path + ": " + identity.error().what();
        } else if (is_named(identity.value(), name)) {
            found.push_back(path);
        } else {
            others += "; " + path + " is the volume " + uuid_text(identity.value().uuid);
            if (!identity.value().label.empty()) others += " \"" + identity.value().label + "\"";
        }
    }
    if (found.empty())
        return {"", "no volume has the " + what + name.text + " (examined: " + devices +
                        "/daxX.Y and the links in " + devices + "/pmfs" + others + ")"};
    if (found.size() > 1)
        return {"", "both " + found[0] + " and " + found[1] + " have the " + what + name.text +
                        ": use the path of one of them"};
    return {found.front(), ""};
}

}  // namespace pmfs::probe
