// The load generator of the bench: one thread, raw TCP, epoll. It opens
// WebSockets, subscribes in the dialect of a peer, publishes requests that the
// runner has signed beforehand, and accounts for every delivery.
//
//   cc -O2 -o load load.c
//
// It reads commands from its standard input, one a line, as `name key=value …`,
// and answers each with one line of JSON; bench/load.ts sends them.
//
//   open      count ports path dialect [channel channels presence small window]
//             connects clients that join channel{i % channels}, waits for the last;
//             the first `small` clients have small buffers in the kernel
//   reopen    [path]        connects closed clients again, where they stopped,
//             and waits until nothing that was published is missing
//   requests  file count bytes channels         what `publish` sends
//   publish   publishers ports [seconds rate wait pids]
//   trigger   count concurrency ports [pids]    the server program publishes
//   mute      count                             these clients stop reading
//   close     [count] [abort]                   the first clients, or all
//   leave     count    closes them, and waits until all others have heard of it
//   idle      seconds
//
// A message has the mark `@t` and eight digits, its number, in its data. A client
// on channel{j} has to get each number k with k % channels = j once.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum dialect { PUSHER, FAYE, SOCKETIO };
enum state { CLOSED, CONNECTING, UPGRADING, GREETING, JOINING, JOINED };
enum kind { CLIENT, PUBLISHER, COMMANDS };

// Where a connection keeps the part of a frame, or of a response, that has come.
struct partial { unsigned char *bytes; size_t length, capacity; };

struct client {
  enum kind kind; // first, as epoll hands out pointers to it
  enum state state;
  int fd, index, channel, muted;
  struct partial partial;
  unsigned char *seen; // one bit for each number
  long received;
  long members; // of its presence channel, as it has heard
  long removed; // members that have left
  char socket_id[40], faye_id[64], epoch[80];
  long offset;
};

struct publisher {
  enum kind kind;
  int fd, index, busy, connected;
  size_t written; // of its request, if the socket was full
  long number;
  struct partial partial;
};

// ---- State ------------------------------------------------------------------

static struct client *clients;
static int client_count, joined, connecting;
static enum dialect dialect;
static char path[512], channel_name[128];
static int channels = 1, presence, small_count;
static int ports[16], port_count;
static long closed_by_server, close_code;

static char *request_bytes;
static struct { char *start; size_t length; } *requests;
static long request_count, next_number, message_bytes;
static double *sent_at; // in µs
static unsigned char *was_sent;
static long *audience; // clients on each channel that have to get what it has

static struct publisher *publishers;
static int publisher_count;
static long answered, refused, last_status;

static long expected, received, duplicates, strays, frames, member_events;
static double first_sent, last_received, last_progress;
static unsigned char chunk[1 << 18];
// The clients have a poller of their own, which waits while they need not be quick.
static int poller, crowd, is_lazy, commands_done;
static char line[4096], *arguments;
static size_t line_length;

static void fail(const char *format, ...) {
  va_list rest;
  va_start(rest, format);
  printf("{\"error\":\"");
  char text[512];
  vsnprintf(text, sizeof text, format, rest);
  for (char *c = text; *c; c++)
    putchar(*c == '"' || *c == '\\' || (unsigned char)*c < 32 ? '\'' : *c);
  printf("\"}\n");
  fflush(stdout);
  va_end(rest);
  exit(1);
}

static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size);
  if (!memory) fail("no memory");
  return memory;
}

// ---- Time -------------------------------------------------------------------

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

// The processor time of this process, in µs.
static double own_time(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec * 1e6 + usage.ru_utime.tv_usec +
         usage.ru_stime.tv_sec * 1e6 + usage.ru_stime.tv_usec;
}

// The processor time of the servers with these comma-separated ids, in µs.
static double server_time(const char *pids) {
  double ticks = 0;
  while (pids && *pids) {
    char name[64], text[1024];
    snprintf(name, sizeof name, "/proc/%d/stat", atoi(pids));
    FILE *file = fopen(name, "r");
    if (file) {
      size_t length = fread(text, 1, sizeof text - 1, file);
      text[length] = 0;
      fclose(file);
      // The second field is the program's name, which may have blanks.
      char *field = strrchr(text, ')');
      unsigned long user = 0, system = 0;
      if (field && sscanf(field + 2,
            "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
            &user, &system) == 2)
        ticks += user + system;
    }
    pids = strchr(pids, ',');
    if (pids) pids++;
  }
  return ticks * 1e6 / sysconf(_SC_CLK_TCK);
}

// Latencies in µs, with 128 steps for each power of two: within 0.8 %.
static long histogram[8192], latencies;

static void record(double latency) {
  uint64_t us = latency < 0 ? 0 : (uint64_t)latency;
  int shift = us < 256 ? 0 : 56 - __builtin_clzll(us);
  long slot = (long)shift * 128 + (long)(us >> shift);
  histogram[slot < 8191 ? slot : 8191]++;
  latencies++;
}

static double percentile(double share) {
  long rank = (long)(share * (latencies - 1)), seen = 0;
  for (long slot = 0; slot < 8192; slot++) {
    seen += histogram[slot];
    if (seen <= rank) continue;
    if (slot < 256) return slot / 1e3;
    long shift = slot / 128 - 1;
    return (double)((uint64_t)(slot - shift * 128) << shift) / 1e3;
  }
  return 0;
}

// ---- Signatures of presence channels ----------------------------------------
// The server chooses the socket id that they cover, so nobody can sign before.

static const uint32_t K[64] = {
  0x428a2f98,0x71374491,0xb5c0fbcf,0xe9b5dba5,0x3956c25b,0x59f111f1,0x923f82a4,
  0xab1c5ed5,0xd807aa98,0x12835b01,0x243185be,0x550c7dc3,0x72be5d74,0x80deb1fe,
  0x9bdc06a7,0xc19bf174,0xe49b69c1,0xefbe4786,0x0fc19dc6,0x240ca1cc,0x2de92c6f,
  0x4a7484aa,0x5cb0a9dc,0x76f988da,0x983e5152,0xa831c66d,0xb00327c8,0xbf597fc7,
  0xc6e00bf3,0xd5a79147,0x06ca6351,0x14292967,0x27b70a85,0x2e1b2138,0x4d2c6dfc,
  0x53380d13,0x650a7354,0x766a0abb,0x81c2c92e,0x92722c85,0xa2bfe8a1,0xa81a664b,
  0xc24b8b70,0xc76c51a3,0xd192e819,0xd6990624,0xf40e3585,0x106aa070,0x19a4c116,
  0x1e376c08,0x2748774c,0x34b0bcb5,0x391c0cb3,0x4ed8aa4a,0x5b9cca4f,0x682e6ff3,
  0x748f82ee,0x78a5636f,0x84c87814,0x8cc70208,0x90befffa,0xa4506ceb,0xbef9a3f7,
  0xc67178f2
};

static uint32_t turn_right(uint32_t x, int n) { return x >> n | x << (32 - n); }

// SHA-256 of a text of at most 1,000 bytes.
static void sha256(const unsigned char *text, size_t length, unsigned char *out) {
  uint32_t h[8] = {0x6a09e667,0xbb67ae85,0x3c6ef372,0xa54ff53a,
                   0x510e527f,0x9b05688c,0x1f83d9ab,0x5be0cd19};
  unsigned char padded[1088] = {0};
  size_t blocks = (length + 9 + 63) / 64;
  memcpy(padded, text, length);
  padded[length] = 0x80;
  for (int i = 0; i < 8; i++)
    padded[blocks * 64 - 1 - i] = (unsigned char)((uint64_t)length * 8 >> 8 * i);
  for (size_t block = 0; block < blocks; block++) {
    unsigned char *p = padded + block * 64;
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++, p += 4)
      w[i] = (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
    for (int i = 16; i < 64; i++)
      w[i] = w[i - 16] + w[i - 7] +
        (turn_right(w[i - 15], 7) ^ turn_right(w[i - 15], 18) ^ w[i - 15] >> 3) +
        (turn_right(w[i - 2], 17) ^ turn_right(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i++) {
      uint32_t a = v[0], e = v[4];
      uint32_t t1 = v[7] + K[i] + w[i] + ((e & v[5]) ^ (~e & v[6])) +
        (turn_right(e, 6) ^ turn_right(e, 11) ^ turn_right(e, 25));
      uint32_t t2 = ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2])) +
        (turn_right(a, 2) ^ turn_right(a, 13) ^ turn_right(a, 22));
      memmove(v + 1, v, 7 * sizeof *v);
      v[4] += t1;
      v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
  }
  for (int i = 0; i < 32; i++) out[i] = (unsigned char)(h[i / 4] >> (24 - i % 4 * 8));
}

// The HMAC of a text of at most 900 bytes, as hexadecimal digits.
static void sign(const char *secret, const char *text, char *hex) {
  unsigned char inner[1000] = {0}, outer[96] = {0}, digest[32];
  for (size_t i = 0; i < 64; i++) {
    unsigned char k = i < strlen(secret) ? (unsigned char)secret[i] : 0;
    inner[i] = k ^ 0x36;
    outer[i] = k ^ 0x5c;
  }
  memcpy(inner + 64, text, strlen(text));
  sha256(inner, 64 + strlen(text), outer + 64);
  sha256(outer, 96, digest);
  for (int i = 0; i < 32; i++) sprintf(hex + 2 * i, "%02x", digest[i]);
}

// ---- Sockets ----------------------------------------------------------------

static void watch(int poller, int operation, int fd, uint32_t events, void *owner) {
  struct epoll_event event = {.events = events, .data.ptr = owner};
  if (epoll_ctl(poller, operation, fd, &event)) fail("epoll: %s", strerror(errno));
}

// Connects without waiting. Several addresses, so that no one runs out of ports.
static int connect_to(int port, int number, int is_small) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1, small = 4096;
  if (fd < 0) fail("cannot open another socket: %s; see ulimit -n", strerror(errno));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  if (is_small) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  struct sockaddr_in here = {.sin_family = AF_INET};
  here.sin_addr.s_addr = htonl(0x7f000002 + (uint32_t)number % 16);
  // Only Linux has all of 127.0.0.0/8; elsewhere the system chooses.
  (void)!bind(fd, (struct sockaddr *)&here, sizeof here);
  struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, (struct sockaddr *)&there, sizeof there) && errno != EINPROGRESS)
    fail("cannot connect to port %d: %s", port, strerror(errno));
  return fd;
}

static void send_all(int fd, const char *bytes, size_t length) {
  for (size_t done = 0; done < length;) {
    ssize_t count = send(fd, bytes + done, length - done, MSG_NOSIGNAL);
    if (count >= 0) done += (size_t)count;
    else if (errno == EAGAIN) usleep(50);
    else return; // the connection has ended, which its next read tells
  }
}

// Sends one masked frame.
static void send_frame(struct client *client, int opcode, const char *text, size_t length) {
  static const unsigned char mask[4] = {1, 2, 3, 4};
  unsigned char frame[2048];
  size_t at = 0;
  if (length > sizeof frame - 16) fail("a frame of %zu bytes is too long", length);
  frame[at++] = (unsigned char)(0x80 | opcode);
  if (length < 126) frame[at++] = (unsigned char)(0x80 | length);
  else {
    frame[at++] = 0x80 | 126;
    frame[at++] = (unsigned char)(length >> 8);
    frame[at++] = (unsigned char)length;
  }
  memcpy(frame + at, mask, 4);
  at += 4;
  for (size_t i = 0; i < length; i++) frame[at++] = (unsigned char)text[i] ^ mask[i & 3];
  send_all(client->fd, (char *)frame, at);
}

static void send_text(struct client *client, const char *format, ...) {
  char text[2000];
  va_list rest;
  va_start(rest, format);
  int length = vsnprintf(text, sizeof text, format, rest);
  va_end(rest);
  send_frame(client, 1, text, (size_t)length);
}

static void keep(struct partial *partial, const unsigned char *bytes, size_t length) {
  if (partial->length + length > partial->capacity) {
    partial->capacity = (partial->length + length) * 2;
    partial->bytes = realloc(partial->bytes, partial->capacity);
    if (!partial->bytes) fail("no memory");
  }
  memcpy(partial->bytes + partial->length, bytes, length);
  partial->length += length;
}

static void drop(struct partial *partial) {
  free(partial->bytes);
  *partial = (struct partial){0};
}

// ---- Clients ----------------------------------------------------------------

static void close_client(struct client *client, int abort) {
  if (client->state == CLOSED) return;
  struct linger linger = {1, 0};
  if (abort) setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  close(client->fd);
  drop(&client->partial);
  if (client->state == JOINED) joined--;
  else connecting--;
  client->state = CLOSED;
}

static void begin_client(struct client *client) {
  client->kind = CLIENT;
  client->state = CONNECTING;
  client->fd = connect_to(ports[client->index % port_count], client->index,
                          client->index < small_count);
  connecting++;
  watch(crowd, EPOLL_CTL_ADD, client->fd, EPOLLOUT, client);
}

// Asks for the WebSocket; `{i}` in the path is the client's number.
static void request_upgrade(struct client *client) {
  char text[1024], *mark = strstr(path, "{i}");
  int head = mark ? (int)(mark - path) : (int)strlen(path);
  char number[16] = "";
  if (mark) snprintf(number, sizeof number, "%08d", client->index);
  int length = snprintf(text, sizeof text,
    "GET %.*s%s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n",
    head, path, number, mark ? mark + 3 : "", ports[client->index % port_count]);
  send_all(client->fd, text, (size_t)length);
  client->state = UPGRADING;
  watch(crowd, EPOLL_CTL_MOD, client->fd, EPOLLIN, client);
}

static void ask_faye_for_events(struct client *client) {
  send_text(client,
    "[{\"channel\":\"/meta/connect\",\"clientId\":\"%s\",\"connectionType\":\"websocket\"}]",
    client->faye_id);
}

static void subscribe(struct client *client) {
  char channel[160], recover[256] = "";
  snprintf(channel, sizeof channel, "%s%d", channel_name, client->channel);
  if (*client->epoch)
    snprintf(recover, sizeof recover, ",\"recover\":{\"epoch\":\"%s\",\"offset\":%ld}",
             client->epoch, client->offset);
  client->state = JOINING;
  if (dialect == FAYE) {
    // Faye answers all that one frame asks at once, and a connect late.
    ask_faye_for_events(client);
    send_text(client,
      "[{\"channel\":\"/meta/subscribe\",\"clientId\":\"%s\",\"subscription\":\"/%s\"}]",
      client->faye_id, channel);
  } else if (dialect == SOCKETIO) {
    send_text(client, "420[\"subscribe\",\"%s\"]", channel);
  } else if (presence) {
    char text[512], signature[65];
    snprintf(text, sizeof text, "%s:%s:{\"user_id\":\"u%d\"}", client->socket_id, channel,
             client->index);
    sign("bench-secret", text, signature);
    send_text(client,
      "{\"event\":\"pusher:subscribe\",\"data\":{\"channel\":\"%s\","
      "\"auth\":\"bench-key:%s\",\"channel_data\":\"{\\\"user_id\\\":\\\"u%d\\\"}\"%s}}",
      channel, signature, client->index, recover);
  } else {
    send_text(client,
      "{\"event\":\"pusher:subscribe\",\"data\":{\"channel\":\"%s\"%s}}", channel, recover);
  }
}

// Copies what follows `name` and what stands between it and its value.
static int copy_after(const char *text, size_t length, const char *name, const char *between,
                      const char *end, char *out, size_t size) {
  const char *found = memmem(text, length, name, strlen(name));
  if (!found) return 0;
  const char *limit = text + length;
  for (found += strlen(name); found < limit && strchr(between, *found);) found++;
  size_t used = 0;
  while (found < limit && !strchr(end, *found) && used + 1 < size) out[used++] = *found++;
  out[used] = 0;
  return used > 0;
}

static int has(const char *text, size_t length, const char *part) {
  return memmem(text, length, part, strlen(part)) != NULL;
}

static void join(struct client *client, const char *text, size_t length) {
  client->state = JOINED;
  connecting--;
  joined++;
  last_progress = now();
  char number[24];
  if (presence && copy_after(text, length, "count", "\\\": ", ",}\\", number, sizeof number))
    client->members = atol(number);
  if (copy_after(text, length, "\"epoch\":", "\" ", "\"", client->epoch,
                 sizeof client->epoch) &&
      copy_after(text, length, "\"offset\":", " ", ",}", number, sizeof number))
    client->offset = atol(number);
}

// One event that a client has got, at its mark.
static void account(struct client *client, const char *mark, double at) {
  long number = 0;
  for (int i = 2; i < 10; i++) {
    if (mark[i] < '0' || mark[i] > '9') return;
    number = number * 10 + (mark[i] - '0');
  }
  if (number >= request_count || !was_sent[number] ||
      number % channels != client->channel) {
    strays++;
    return;
  }
  unsigned char *bits = &client->seen[number >> 3], bit = (unsigned char)(1 << (number & 7));
  if (*bits & bit) {
    duplicates++;
    return;
  }
  *bits |= bit;
  client->received++;
  received++;
  last_received = last_progress = at;
  record(at - sent_at[number]);
}

static void count_members(struct client *client, const char *text, size_t length) {
  static const char *names[] = {"member_added", "member_removed"};
  for (int which = 0; which < 2; which++) {
    const char *at = text, *end = text + length;
    while ((at = memmem(at, (size_t)(end - at), names[which], strlen(names[which])))) {
      at += strlen(names[which]);
      if (which) client->removed++;
      else client->members++;
      member_events++;
      last_progress = now();
    }
  }
}

static long pings; // of ours, which servers have not answered

static void answer_pings(struct client *client, const char *text, size_t length) {
  if (has(text, length, "pusher:pong")) pings--;
  if (has(text, length, "pusher:ping"))
    send_text(client, "{\"event\":\"pusher:pong\",\"data\":{}}");
}

// The position of the last event in a frame, from which the client recovers.
static void note_position(struct client *client, const char *text, size_t length) {
  size_t tail = length < 40 ? length : 40;
  char number[24];
  if (copy_after(text + length - tail, tail, "\"offset\":", " ", ",}", number,
                 sizeof number))
    client->offset = atol(number);
}

// A frame of a client that has joined: events, one or many, or something else.
static void take_events(struct client *client, const char *text, size_t length, double at) {
  const char *rest = text, *end = text + length, *mark;
  int many = *text == '[';
  if (*client->epoch) note_position(client, text, length);
  while (end - rest >= 10 && (mark = memmem(rest, (size_t)(end - rest), "@t", 2))) {
    if (end - mark < 10) break;
    account(client, mark, at);
    if (!many) return; // such a frame has one event
    if (dialect == PUSHER) answer_pings(client, rest, (size_t)(mark - rest));
    // The rest of the message has no mark.
    rest = mark + (message_bytes > 10 && message_bytes <= end - mark ? message_bytes : 10);
  }
  if (dialect == PUSHER) {
    answer_pings(client, rest, (size_t)(end - rest));
    if (presence) count_members(client, rest, (size_t)(end - rest));
  } else if (dialect == FAYE && has(text, length, "\"/meta/connect\"")) {
    ask_faye_for_events(client);
  } else if (dialect == SOCKETIO && length == 1 && *text == '2') {
    send_text(client, "3");
  }
}

static void take_text(struct client *client, const char *text, size_t length, double at) {
  frames++;
  if (client->state == JOINED) return take_events(client, text, length, at);
  if (client->state == GREETING) {
    if (dialect == SOCKETIO) {
      if (*text == '0') send_text(client, "40");
      else if (has(text, length, "40")) subscribe(client);
      return;
    }
    if (dialect == FAYE) {
      if (copy_after(text, length, "\"clientId\":", "\" ", "\"", client->faye_id,
                     sizeof client->faye_id))
        subscribe(client);
      return;
    }
    copy_after(text, length, "socket_id", "\\\": ", "\\\"", client->socket_id,
               sizeof client->socket_id);
    if (has(text, length, "pusher:connection_established")) return subscribe(client);
  } else {
    const char *sign_of_success = dialect == FAYE ? "/meta/subscribe"
      : dialect == SOCKETIO ? "430" : "subscription_succeeded";
    if (has(text, length, sign_of_success)) {
      join(client, text, length);
      // Events may come in the same frame.
      return take_events(client, text, length, at);
    }
    // A replay comes before the answer to its subscription.
    if (has(text, length, "@t")) return take_events(client, text, length, at);
  }
  if (has(text, length, "error") || has(text, length, "\"successful\":false"))
    fail("a client was refused: %.*s", (int)(length < 200 ? length : 200), text);
  if (dialect == FAYE && has(text, length, "/meta/connect"))
    take_events(client, text, length, at);
  else if (dialect == PUSHER) answer_pings(client, text, length);
}

// Takes the whole frames, and returns how many bytes they have.
static size_t take_frames(struct client *client, unsigned char *bytes, size_t length, double at) {
  size_t done = 0;
  while (length - done >= 2) {
    unsigned char *frame = bytes + done;
    int opcode = frame[0] & 15;
    size_t size = frame[1] & 127, head = 2;
    if (size == 126) {
      if (length - done < 4) break;
      size = (size_t)frame[2] << 8 | frame[3];
      head = 4;
    } else if (size == 127) {
      if (length - done < 10) break;
      size = 0;
      for (int i = 2; i < 10; i++) size = size << 8 | frame[i];
      head = 10;
    }
    if (length - done < head + size) break;
    char *text = (char *)frame + head;
    if (opcode == 8) {
      close_code = size >= 2 ? (unsigned char)text[0] << 8 | (unsigned char)text[1] : 1005;
    } else if (opcode == 9) {
      send_frame(client, 10, text, size);
    } else if (opcode < 3) {
      take_text(client, text, size, at);
    }
    done += head + size;
  }
  return done;
}

static size_t take_bytes(struct client *client, unsigned char *bytes, size_t length, double at) {
  size_t head = 0;
  if (client->state == UPGRADING) {
    unsigned char *end = memmem(bytes, length, "\r\n\r\n", 4);
    if (!end) return 0;
    if (!memmem(bytes, (size_t)(end - bytes), " 101", 4))
      fail("no WebSocket at %s: %.60s", path, bytes);
    head = (size_t)(end + 4 - bytes);
    client->state = GREETING;
    if (dialect == FAYE)
      send_text(client, "[{\"channel\":\"/meta/handshake\",\"version\":\"1.0\","
                        "\"supportedConnectionTypes\":[\"websocket\"]}]");
  }
  return head + take_frames(client, bytes + head, length - head, at);
}

static void read_client(struct client *client, double at) {
  for (;;) {
    ssize_t count = read(client->fd, chunk, sizeof chunk - 1);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
      if (client->state != JOINED)
        fail("the server closed a client that had not joined (code %ld)", close_code);
      closed_by_server++;
      return close_client(client, 0);
    }
    chunk[count] = 0;
    struct partial *partial = &client->partial;
    if (partial->length == 0) {
      size_t done = take_bytes(client, chunk, (size_t)count, at);
      if (done < (size_t)count) keep(partial, chunk + done, (size_t)count - done);
    } else {
      keep(partial, chunk, (size_t)count);
      size_t done = take_bytes(client, partial->bytes, partial->length, at);
      partial->length -= done;
      memmove(partial->bytes, partial->bytes + done, partial->length);
      if (partial->length == 0) drop(partial);
    }
    if ((size_t)count < sizeof chunk - 1) return;
  }
}

// ---- Publishers -------------------------------------------------------------

static void write_request(struct publisher *publisher) {
  char *start = requests[publisher->number].start;
  size_t length = requests[publisher->number].length;
  while (publisher->written < length) {
    ssize_t count = send(publisher->fd, start + publisher->written,
                         length - publisher->written, MSG_NOSIGNAL);
    if (count < 0) {
      if (errno != EAGAIN) fail("a publisher lost its connection: %s", strerror(errno));
      return watch(poller, EPOLL_CTL_MOD, publisher->fd, EPOLLIN | EPOLLOUT, publisher);
    }
    publisher->written += (size_t)count;
  }
}

static void note_sent(long number, double at) {
  was_sent[number] = 1;
  sent_at[number] = at;
  expected += audience[number % channels];
}

static void connect_publisher(struct publisher *publisher) {
  publisher->connected = 0;
  publisher->partial.length = 0;
  publisher->fd = connect_to(ports[publisher->index % port_count], publisher->index, 0);
  watch(poller, EPOLL_CTL_ADD, publisher->fd, EPOLLIN | EPOLLOUT, publisher);
}

static void publish_next(struct publisher *publisher, double at) {
  publisher->number = next_number++;
  publisher->busy = 1;
  publisher->written = 0;
  note_sent(publisher->number, at);
  if (publisher->connected) write_request(publisher);
}

static int closes; // the server, after the last response

// Returns whether a whole response has come.
static int is_answered(struct publisher *publisher) {
  struct partial *partial = &publisher->partial;
  unsigned char *end = memmem(partial->bytes, partial->length, "\r\n\r\n", 4);
  if (!end) return 0;
  size_t head = (size_t)(end + 4 - partial->bytes), body = 0;
  char text[2048];
  if (head >= sizeof text) fail("a response has a head of %zu bytes", head);
  memcpy(text, partial->bytes, head);
  text[head] = 0;
  last_status = atol(text + 9);
  closes = strcasestr(text, "\r\nconnection: close") != NULL;
  char *length = strcasestr(text, "\r\ncontent-length:");
  if (length) body = (size_t)atol(length + 17);
  else if (strcasestr(text, "\r\ntransfer-encoding: chunked"))
    return partial->length > head + 4 &&
           !memcmp(partial->bytes + partial->length - 5, "0\r\n\r\n", 5);
  return partial->length >= head + body;
}

static void read_publisher(struct publisher *publisher) {
  ssize_t count = read(publisher->fd, chunk, sizeof chunk);
  if (count < 0 && errno == EAGAIN) return;
  if (count <= 0) {
    if (publisher->busy) fail("the server closed the connection of a publisher");
    close(publisher->fd);
    return connect_publisher(publisher);
  }
  keep(&publisher->partial, chunk, (size_t)count);
  if (!is_answered(publisher)) return;
  if (last_status >= 200 && last_status < 300) answered++;
  else refused++;
  last_progress = now();
  publisher->partial.length = 0;
  publisher->busy = 0;
  if (!closes) return;
  close(publisher->fd);
  connect_publisher(publisher);
}

static void open_publishers(int count) {
  publishers = allocate((size_t)count, sizeof *publishers);
  publisher_count = count;
  for (int i = 0; i < count; i++) {
    publishers[i].kind = PUBLISHER;
    publishers[i].index = i;
    connect_publisher(&publishers[i]);
  }
}

static void close_publishers(void) {
  for (int i = 0; i < publisher_count; i++) {
    close(publishers[i].fd);
    drop(&publishers[i].partial);
  }
  free(publishers);
  publishers = NULL;
  publisher_count = 0;
}

static int all_publishers(int (*is)(struct publisher *)) {
  for (int i = 0; i < publisher_count; i++)
    if (!is(&publishers[i])) return 0;
  return 1;
}

static int is_connected(struct publisher *publisher) { return publisher->connected; }
static int is_idle(struct publisher *publisher) { return !publisher->busy; }

static void take_publisher(struct publisher *publisher, uint32_t events) {
  if (events & EPOLLOUT) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(publisher->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) fail("a publisher cannot connect: %s", strerror(error));
    publisher->connected = 1;
    watch(poller, EPOLL_CTL_MOD, publisher->fd, EPOLLIN, publisher);
    if (publisher->busy) write_request(publisher);
  }
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_publisher(publisher);
}

// ---- The event loop ---------------------------------------------------------

static void read_commands(void) {
  ssize_t count = read(0, line + line_length, sizeof line - 1 - line_length);
  if (count <= 0) commands_done = 1;
  else line_length += (size_t)count;
  line[line_length] = 0;
}

// Reads what some clients have got, and returns how many. Reading takes its time,
// so the time of arrival is looked up now and then.
#define SLICE 64

static int look_at_clients(void) {
  struct epoll_event events[SLICE];
  double at = 0;
  int count = epoll_wait(crowd, events, SLICE, 0);
  for (int i = 0; i < count; i++) {
    if (i % 16 == 0) at = now();
    struct client *client = events[i].data.ptr;
    if (client->state == CONNECTING) request_upgrade(client);
    else if (client->state != CLOSED) read_client(client, at);
  }
  return count;
}

// While rates are measured, clients read a few frames at a time: to read each at
// once would take the load generator as long as the server needs to write it.
#define LAZY_US 25e3

static double last_pass;
static int due; // clients that have their turn in this pass

static void be_lazy(int lazy) {
  static enum kind kind = CLIENT;
  if (lazy == is_lazy) return;
  is_lazy = lazy;
  due = 0;
  watch(poller, lazy ? EPOLL_CTL_DEL : EPOLL_CTL_ADD, crowd, EPOLLIN, &kind);
}

// Handles what has happened, or waits for something. Publishers come first: while
// they wait for the load generator, the server has nothing to do.
static void turn(int wait_ms) {
  struct epoll_event events[128];
  if (is_lazy && due <= 0 && now() - last_pass > LAZY_US) {
    due = client_count;
    last_pass = now();
  }
  if (is_lazy && wait_ms > 5) wait_ms = 5;
  int count = epoll_wait(poller, events, 128, due > 0 ? 0 : wait_ms);
  for (int i = 0; i < count; i++) {
    enum kind kind = *(enum kind *)events[i].data.ptr;
    if (kind == COMMANDS) read_commands();
    else if (kind == PUBLISHER) take_publisher(events[i].data.ptr, events[i].events);
    else look_at_clients();
  }
  if (due > 0) {
    int seen = look_at_clients();
    due = seen == SLICE ? due - seen : 0;
  }
}

static double number_of(const char *name, double otherwise);
static char *text_of(const char *name, char *otherwise);

// ---- Phases -----------------------------------------------------------------
// What a command measures, from its start to its end.

static struct { double at, own, server; } began;
static int has_fence; // has sent pings, see below

static void begin(void) {
  memset(histogram, 0, sizeof histogram);
  has_fence = 0;
  latencies = received = expected = duplicates = strays = 0;
  frames = member_events = answered = refused = closed_by_server = 0;
  began.own = own_time();
  began.server = server_time(text_of("pids", NULL));
  began.at = first_sent = last_progress = last_received = now();
}

static void report(double from, double until) {
  double spent = now() - began.at;
  printf("{\"ms\":%.3f,\"messages\":%ld,\"refused\":%ld,\"status\":%ld,\"expected\":%ld,"
         "\"received\":%ld,\"lost\":%ld,\"duplicates\":%ld,\"strays\":%ld,\"frames\":%ld,"
         "\"memberEvents\":%ld,\"joined\":%d,\"closed\":%ld,\"closeCode\":%ld,"
         "\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f,"
         "\"serverMs\":%.1f,\"loadMs\":%.1f,\"loadShare\":%.4f}\n",
         (until - from) / 1e3, answered, refused, last_status, expected, received,
         expected - received, duplicates, strays, frames, member_events, joined,
         closed_by_server, close_code, percentile(.5), percentile(.9), percentile(.99),
         percentile(1), (server_time(text_of("pids", NULL)) - began.server) / 1e3,
         (own_time() - began.own) / 1e3, (own_time() - began.own) / spent);
  fflush(stdout);
}

// Nothing has moved for so long that nothing more will come.
static int is_stuck(void) { return now() - last_progress > number_of("patience", 20) * 1e6; }

// Whether all clients have got what the server has sent them by now: it answers
// their pings after that. Tells a loss without waiting for what may still come.
static int has_all_that_comes(void) {
  if (!has_fence) {
    if (dialect != PUSHER || port_count > 1 || now() - last_progress < 5e5) return 0;
    has_fence = 1;
    pings = 0;
    for (int i = 0; i < client_count; i++) {
      if (clients[i].state != JOINED || clients[i].muted) continue;
      send_text(&clients[i], "{\"event\":\"pusher:ping\",\"data\":{}}");
      pings++;
    }
  }
  return pings <= 0;
}

static void read_ports(void) {
  char *list = text_of("ports", NULL);
  if (!list) return;
  for (port_count = 0; list && *list && port_count < 16; port_count++) {
    ports[port_count] = atoi(list);
    list = strchr(list, ',');
    if (list) list++;
  }
  if (!port_count) fail("there is no port");
}

// Opens the clients that are closed, some at a time, and waits for all of them.
static void connect_clients(void) {
  int window = (int)number_of("window", 100), next = 0;
  while (joined < client_count) {
    for (; connecting < window && next < client_count; next++)
      if (clients[next].state == CLOSED) begin_client(&clients[next]);
    turn(50);
    if (connecting && is_stuck())
      fail("%d of %d clients have joined, and no more do", joined, client_count);
    if (closed_by_server) fail("the server closed clients (code %ld)", close_code);
  }
}

static void count_audience(void) {
  memset(audience, 0, (size_t)channels * sizeof *audience);
  for (int i = 0; i < client_count; i++)
    if (!clients[i].muted) audience[clients[i].channel]++;
}

// Whether every client on a presence channel knows all members of it.
static int all_members_known(void) {
  long total = 0, due = 0;
  for (int i = 0; i < client_count; i++) total += clients[i].members;
  for (int i = 0; i < channels; i++) due += audience[i] * audience[i];
  expected = due;
  received = total;
  return total == due;
}

static void open_clients(void) {
  read_ports();
  for (int i = 0; i < client_count; i++) {
    close_client(&clients[i], 1);
    free(clients[i].seen);
  }
  free(clients);
  client_count = (int)number_of("count", 1);
  clients = allocate((size_t)client_count, sizeof *clients);
  char *name = text_of("dialect", "pusher");
  dialect = !strcmp(name, "faye") ? FAYE : !strcmp(name, "socketio") ? SOCKETIO : PUSHER;
  snprintf(path, sizeof path, "%s", text_of("path", "/app/bench-key?protocol=7"));
  snprintf(channel_name, sizeof channel_name, "%s", text_of("channel", "c"));
  channels = (int)number_of("channels", 1);
  presence = (int)number_of("presence", 0);
  small_count = (int)number_of("small", 0);
  for (int i = 0; i < client_count; i++) {
    clients[i].kind = CLIENT;
    clients[i].index = i;
    clients[i].channel = i % channels;
  }
  free(audience);
  audience = allocate((size_t)channels, sizeof *audience);
  count_audience();
  begin();
  connect_clients();
  while (presence && !all_members_known() && !is_stuck()) turn(50);
  report(began.at, last_progress);
}

static void close_clients(int wait) {
  int count = (int)number_of("count", client_count), abort = (int)number_of("abort", 0);
  begin();
  for (int i = 0; i < count; i++) close_client(&clients[i], abort);
  for (int i = 0; wait && i < count; i++)
    for (int j = count; j < client_count; j++)
      expected += clients[i].channel == clients[j].channel;
  while (wait && received < expected && !is_stuck()) {
    turn(50);
    received = 0;
    for (int i = count; i < client_count; i++) received += clients[i].removed;
  }
  report(began.at, last_progress);
}

static void load_requests(void) {
  FILE *file = fopen(text_of("file", ""), "rb");
  if (!file) fail("cannot read %s", text_of("file", ""));
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  rewind(file);
  free(request_bytes);
  free(requests);
  free(sent_at);
  free(was_sent);
  request_bytes = allocate((size_t)size + 1, 1);
  if (fread(request_bytes, 1, (size_t)size, file) != (size_t)size) fail("cannot read it all");
  fclose(file);
  request_count = (long)number_of("count", 0);
  message_bytes = (long)number_of("bytes", 200);
  requests = allocate((size_t)request_count, sizeof *requests);
  sent_at = allocate((size_t)request_count, sizeof *sent_at);
  was_sent = allocate((size_t)request_count, 1);
  next_number = 0;
  // Each request has its length in front, in four bytes.
  char *at = request_bytes, *end = at + size;
  for (long i = 0; i < request_count; i++) {
    uint32_t length;
    if (end - at < 4) fail("the file has %ld requests only", i);
    memcpy(&length, at, 4);
    requests[i].start = at + 4;
    requests[i].length = length;
    at += 4 + length;
    if (at > end) fail("the file ends within request %ld", i);
  }
  for (int i = 0; i < client_count; i++) {
    free(clients[i].seen);
    clients[i].seen = allocate((size_t)request_count / 8 + 1, 1);
    clients[i].received = 0;
  }
  printf("{\"ok\":true}\n");
  fflush(stdout);
}

static void publish(void) {
  double seconds = number_of("seconds", 2), rate = number_of("rate", 0);
  long most = (long)number_of("count", 1e9), first = next_number;
  int wait = (int)number_of("wait", 1);
  read_ports();
  if (!request_count) fail("there are no requests");
  open_publishers((int)number_of("publishers", 1));
  last_progress = now();
  while (!all_publishers(is_connected)) {
    turn(50);
    if (is_stuck()) fail("publishers cannot connect");
  }
  begin();
  double end = began.at + seconds * 1e6;
  for (;;) {
    double at = now();
    long sent = next_number - first;
    int more = at < end && next_number < request_count && sent < most, wait_ms = 50;
    if (rate > 0 && more) {
      double due = began.at + (double)sent * 1e6 / rate;
      // The clock of a message that had to wait for a publisher runs already.
      for (int i = 0; i < publisher_count && due <= at; i++) {
        if (publishers[i].busy) continue;
        publish_next(&publishers[i], due);
        due = began.at + (double)(next_number - first) * 1e6 / rate;
        if (next_number >= request_count) break;
      }
      wait_ms = due > at ? (int)((due - at) / 1e3) : 1;
    } else if (more) {
      for (int i = 0; i < publisher_count; i++)
        if (!publishers[i].busy && next_number < request_count && next_number - first < most)
          publish_next(&publishers[i], at);
    }
    int done = !more && all_publishers(is_idle);
    if (done && (!wait || received >= expected)) break;
    be_lazy(rate == 0 && !done);
    if (is_stuck() || (done && has_all_that_comes())) break;
    turn(wait_ms < 50 ? wait_ms : 50);
  }
  be_lazy(0);
  // What comes now is one too many.
  turn(1);
  report(began.at, wait ? last_received : last_progress);
  close_publishers();
}

static void trigger(void) {
  char text[1024], body[512];
  long first = next_number, count = (long)number_of("count", 100);
  read_ports();
  if (first + count > request_count) fail("there are %ld numbers only", request_count);
  int length = snprintf(body, sizeof body,
    "{\"first\":%ld,\"count\":%ld,\"channels\":%d,\"bytes\":%ld,\"concurrency\":%d}",
    first, count, channels, message_bytes, (int)number_of("concurrency", 1));
  length = snprintf(text, sizeof text,
    "POST /bench/trigger HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
    "Content-Length: %d\r\n\r\n%s", ports[0], length, body);
  open_publishers(1);
  last_progress = now();
  while (!all_publishers(is_connected)) turn(50);
  begin();
  for (; next_number < first + count; next_number++) note_sent(next_number, began.at);
  publishers[0].busy = 1;
  publishers[0].number = first;
  send_all(publishers[0].fd, text, (size_t)length);
  while ((publishers[0].busy || received < expected) && !is_stuck()) {
    be_lazy(publishers[0].busy);
    turn(50);
  }
  be_lazy(0);
  turn(1);
  report(began.at, last_received);
  close_publishers();
}

// Connects the clients again. All that was published meanwhile has to come.
static void reopen_clients(void) {
  char *other = text_of("path", NULL);
  if (other) snprintf(path, sizeof path, "%s", other);
  begin();
  for (int i = 0; i < client_count; i++) {
    for (long number = 0; number < next_number; number++)
      expected += was_sent[number] && number % channels == clients[i].channel;
    expected -= clients[i].received;
  }
  connect_clients();
  while (received < expected && !is_stuck()) turn(50);
  turn(1);
  report(began.at, last_received);
}

static void mute_clients(void) {
  int count = (int)number_of("count", 0);
  for (int i = 0; i < count && i < client_count; i++) {
    if (clients[i].muted) continue;
    clients[i].muted = 1;
    epoll_ctl(crowd, EPOLL_CTL_DEL, clients[i].fd, NULL);
  }
  count_audience();
  printf("{\"ok\":true}\n");
  fflush(stdout);
}

static void idle(void) {
  begin();
  double end = began.at + number_of("seconds", 1) * 1e6;
  while (now() < end) turn(20);
  report(began.at, now());
}

// ---- Commands ---------------------------------------------------------------

// The value of `name=` among the arguments of the command.
static char *text_of(const char *name, char *otherwise) {
  static char values[8][1024];
  static int next;
  size_t length = strlen(name);
  for (char *at = arguments; at && *at;) {
    while (*at == ' ') at++;
    if (!strncmp(at, name, length) && at[length] == '=') {
      char *value = values[next++ % 8];
      size_t size = strcspn(at + length + 1, " ");
      if (size > sizeof values[0] - 1) fail("%s is too long", name);
      memcpy(value, at + length + 1, size);
      value[size] = 0;
      return value;
    }
    at += strcspn(at, " ");
  }
  return otherwise;
}

static double number_of(const char *name, double otherwise) {
  char *text = text_of(name, NULL);
  return text ? atof(text) : otherwise;
}

static void run(char *command) {
  char *end = strchr(command, ' ');
  arguments = end ? end + 1 : NULL;
  if (end) *end = 0;
  if (!strcmp(command, "open")) open_clients();
  else if (!strcmp(command, "reopen")) reopen_clients();
  else if (!strcmp(command, "requests")) load_requests();
  else if (!strcmp(command, "publish")) publish();
  else if (!strcmp(command, "trigger")) trigger();
  else if (!strcmp(command, "mute")) mute_clients();
  else if (!strcmp(command, "close")) close_clients(0);
  else if (!strcmp(command, "leave")) close_clients(1);
  else if (!strcmp(command, "idle")) idle();
  else fail("there is no command %s", command);
}

int main(void) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  poller = epoll_create1(0);
  crowd = epoll_create1(0);
  is_lazy = 1;
  be_lazy(0);
  fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
  static enum kind commands = COMMANDS;
  watch(poller, EPOLL_CTL_ADD, 0, EPOLLIN, &commands);
  while (!commands_done) {
    char *end = strchr(line, '\n');
    if (!end) {
      turn(-1);
      continue;
    }
    char command[4096];
    *end = 0;
    strcpy(command, line);
    line_length -= (size_t)(end + 1 - line);
    memmove(line, end + 1, line_length + 1);
    run(command);
  }
  return 0;
}
