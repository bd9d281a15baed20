// Certificates of the test's own, made on the spot by the openssl program.

#pragma once

#include <string>
#include <vector>

namespace support {

// Paths of PEM files.
struct Certificate {
    std::string certificate;
    std::string key;
};

// A certificate authority that nobody but the test knows. Its files are gone with it. Throws std::runtime_error.
class Authority {
  public:
    Authority();
    ~Authority();
    Authority(const Authority &) = delete;
    Authority &operator=(const Authority &) = delete;

    // Its own certificate: what tls_ca wants.
    std::string file() const { return path("ca.pem"); }
    // Where more files may be put.
    std::string path(const std::string &name) const { return directory_ + "/" + name; }

    // A server's certificate, valid for a week. `names` is a subjectAltName such as "DNS:localhost,IP:127.0.0.1".
    Certificate sign(const std::string &names) const;
    // One that was valid for a day in 2020.
    Certificate sign_expired(const std::string &names) const;
    // Options of redis-servers on loopback that trust each other by this authority, and any client.
    std::vector<std::string> options() const;

  private:
    Certificate sign(const std::string &names, const std::string &validity) const;
    void openssl(const std::string &words) const;

    std::string directory_;
};

} // namespace support
