// One HTTP exchange. Redirects, proxies and TLS are libcurl's business; what a status means and trying again is the caller's.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>

#include "stableqat/base/log.h"

namespace stableqat::hub {

struct HttpRequest {
  std::string url;
  std::string token;             // bearer token for the host of `url`; a redirect to another host, port or scheme goes without it
  std::uint64_t first_byte = 0;  // above 0: asks for the bytes from there on (RFC 9110, section 14.2)
};

struct HttpResponse {
  long status = 0;                             // of the last response, after redirects
  std::map<std::string, std::string> headers;  // of the same; names in lower case
  std::optional<std::chrono::seconds> retry_after;
  std::string error_body;  // start of the body where the status is not 2xx

  bool ok() const { return status >= 200 && status < 300; }
  std::string header(const std::string& name) const;  // "" when there is none
};

// No complete response came: connection, name, TLS or time.
class TransferError : public std::runtime_error {
 public:
  TransferError(const std::string& what, bool may_pass) : std::runtime_error(what), may_pass_(may_pass) {}
  bool may_pass() const noexcept { return may_pass_; }  // worth another attempt

 private:
  bool may_pass_;
};

// Keeps connections open from one exchange to the next. Not thread-safe.
class HttpClient {
 public:
  // Receives the body of a 2xx response piece by piece, beside its status and headers. May throw; that ends the exchange.
  using BodySink = std::function<void(const HttpResponse&, std::span<const std::byte>)>;

  HttpClient(std::chrono::seconds stall, StopRequested stop);
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;
  ~HttpClient();

  // Throws TransferError, Stopped, and what `sink` throws.
  HttpResponse get(const HttpRequest& request, const BodySink& sink);

 private:
  class Exchange;
  struct Close {
    void operator()(void* handle) const noexcept;
  };

  std::unique_ptr<void, Close> handle_;  // CURL
  std::chrono::seconds stall_;
  StopRequested stop_;
};

}  // namespace stableqat::hub
