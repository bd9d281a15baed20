// The independent client: looks at what really lies in Redis.

#pragma once

#include <hiredis/hiredis.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "redis_server.hpp"

namespace support {

struct Reply {
    long long integer = 0;
    std::string text;
    std::vector<Reply> elements;
};

// A connection to a server. Throws std::runtime_error where the server refuses.
class Hiredis {
  public:
    // By a unix socket.
    explicit Hiredis(const std::string &socket_path) : context_(redisConnectUnix(socket_path.c_str())) {
        check(socket_path);
    }
    // By a port of 127.0.0.1.
    explicit Hiredis(int port) : context_(redisConnect("127.0.0.1", port)) { check(std::to_string(port)); }

    explicit Hiredis(const RedisServer &server, int db = 0) : Hiredis(server.socket_path()) {
        if (db != 0) {
            run({"SELECT", std::to_string(db)});
        }
    }

    Reply run(const std::vector<std::string> &words) {
        std::vector<const char *> pointers;
        std::vector<std::size_t> sizes;
        for (const std::string &word : words) {
            pointers.push_back(word.data());
            sizes.push_back(word.size());
        }
        std::unique_ptr<redisReply, void (*)(void *)> reply(
            static_cast<redisReply *>(
                redisCommandArgv(context_.get(), static_cast<int>(words.size()), pointers.data(), sizes.data())),
            freeReplyObject);
        if (reply == nullptr) {
            throw std::runtime_error(words[0] + ": " + context_->errstr);
        }
        if (reply->type == REDIS_REPLY_ERROR) {
            throw std::runtime_error(words[0] + ": " + reply->str);
        }
        return copy(*reply);
    }

    // The elements of a list; none where there is no such key.
    std::vector<std::string> list(const std::string &key) {
        std::vector<std::string> elements;
        for (const Reply &element : run({"LRANGE", key, "0", "-1"}).elements) {
            elements.push_back(element.text);
        }
        return elements;
    }

    void push(const std::string &key, const std::vector<std::string> &elements) {
        std::vector<std::string> words = {"RPUSH", key};
        words.insert(words.end(), elements.begin(), elements.end());
        run(words);
    }

    long long length(const std::string &key) { return run({"LLEN", key}).integer; }
    bool exists(const std::string &key) { return run({"EXISTS", key}).integer == 1; }

    // Milliseconds of life; -1 for ever, -2 no such key.
    long long life_ms(const std::string &key) { return run({"PTTL", key}).integer; }

    // How many keys there are, of any name.
    long long keys() { return run({"DBSIZE"}).integer; }

    // A number of INFO, such as "blocked_clients".
    long long info(const std::string &name) { return std::stoll(info_text(name)); }

    // What INFO says of something, such as "master_link_status".
    std::string info_text(const std::string &name) {
        const std::string text = "\n" + run({"INFO"}).text;
        const std::string field = "\n" + name + ":";
        const std::size_t at = text.find(field);
        if (at == std::string::npos) {
            throw std::runtime_error("INFO has no " + name);
        }
        const std::size_t start = at + field.size();
        return text.substr(start, text.find('\r', start) - start);
    }

    // A setting, such as "save".
    std::string setting(const std::string &name) { return run({"CONFIG", "GET", name}).elements.at(1).text; }
    void set(const std::string &name, const std::string &value) { run({"CONFIG", "SET", name, value}); }

  private:
    struct Free {
        void operator()(redisContext *context) const { redisFree(context); }
    };

    void check(const std::string &address) const {
        if (context_ == nullptr || context_->err != 0) {
            throw std::runtime_error("hiredis cannot connect to " + address);
        }
    }

    static Reply copy(const redisReply &from) {
        Reply reply;
        reply.integer = from.integer;
        if (from.str != nullptr) {
            reply.text.assign(from.str, static_cast<std::size_t>(from.len));
        }
        for (std::size_t i = 0; i < from.elements; ++i) {
            reply.elements.push_back(copy(*from.element[i]));
        }
        return reply;
    }

    std::unique_ptr<redisContext, Free> context_;
};

} // namespace support
