#include "certificates.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <system_error>

namespace support {
namespace {

void write(const std::string &path, const std::string &text) {
    std::ofstream(path) << text;
}

// What `openssl ca` has to be told in a file: where it keeps its books, and that any name will do.
std::string settings(const std::string &directory) {
    return "[ca]\ndefault_ca = books\n[books]\n"
           "database = " + directory + "/books\n"
           "new_certs_dir = " + directory + "\n"
           "certificate = " + directory + "/ca.pem\n"
           "private_key = " + directory + "/ca.key\n"
           "default_md = sha256\nrand_serial = yes\nunique_subject = no\npolicy = any\n"
           "[any]\ncommonName = optional\n";
}

const std::string new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes ";

} // namespace

Authority::Authority() {
    std::string directory = (std::filesystem::temp_directory_path() / "pita-redis-ca-XXXXXX").string();
    if (mkdtemp(directory.data()) == nullptr) {
        throw std::runtime_error("no temporary directory " + directory);
    }
    directory_ = directory;
    write(path("books"), "");
    write(path("settings"), settings(directory_));
    openssl("req -x509 " + new_key + "-days 7 -subj '/CN=an authority of a test' -keyout " + path("ca.key") + " -out " +
            file());
}

Authority::~Authority() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
}

Certificate Authority::sign(const std::string &names) const {
    return sign(names, "-days 7");
}

Certificate Authority::sign_expired(const std::string &names) const {
    return sign(names, "-startdate 20200101000000Z -enddate 20200102000000Z");
}

std::vector<std::string> Authority::options() const {
    const Certificate signed_one = sign("DNS:localhost,IP:127.0.0.1");
    return {"--tls-cert-file",    signed_one.certificate, "--tls-key-file",     signed_one.key,
            "--tls-ca-cert-file", file(),                 "--tls-auth-clients", "no"};
}

Certificate Authority::sign(const std::string &names, const std::string &validity) const {
    const Certificate made = {path("server.pem"), path("server.key")};
    write(path("names"), "subjectAltName = " + names + "\n");
    openssl("req -new " + new_key + "-subj '/CN=a server of a test' -keyout " + made.key + " -out " + path("request"));
    openssl("ca -batch -notext -config " + path("settings") + " -extfile " + path("names") + " " + validity + " -in " +
            path("request") + " -out " + made.certificate);
    return made;
}

void Authority::openssl(const std::string &words) const {
    const std::string log = path("log");
    // Its paths come from mkdtemp: there is nothing in them that a shell would mind.
    const std::string command = "openssl " + words + " >" + log + " 2>&1 </dev/null";
    if (std::system(command.c_str()) != 0) {
        std::ostringstream said;
        said << std::ifstream(log).rdbuf();
        throw std::runtime_error("openssl " + words + ": " + said.str());
    }
}

} // namespace support
