package raftnode

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// repeatInterval bounds how often the library's logger says the same thing: it
// reports every failed heartbeat, and there are many groups.
const repeatInterval = 5 * time.Second

// raftLogger gives the library's log lines to slog, with the attributes of the
// replica on each. The library calls normal things errors (a peer that does not
// answer), so its errors are our warnings.
type raftLogger struct {
	to   *slog.Logger
	name string
	args []any // implied by With
	seen *repeats
}

// repeats remembers when a message was last logged.
type repeats struct {
	mu   sync.Mutex
	last map[string]repeat
}

type repeat struct {
	at         time.Time
	suppressed int
}

func newRaftLogger(to *slog.Logger) hclog.Logger {
	return &raftLogger{to: to, name: "raft", seen: &repeats{last: map[string]repeat{}}}
}

// allow tells whether to log a message now, and how many were left out since the
// last time. Messages are constants of the library, so the map is small.
func (r *repeats) allow(msg string, now time.Time) (bool, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, known := r.last[msg]
	if known && now.Sub(e.at) < repeatInterval {
		e.suppressed++
		r.last[msg] = e
		return false, 0
	}
	r.last[msg] = repeat{at: now}
	return true, e.suppressed
}

func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	to := slogLevel(level)
	ctx := context.Background()
	if !l.to.Enabled(ctx, to) {
		return
	}
	suppressed := 0
	if to >= slog.LevelWarn {
		ok, n := l.seen.allow(msg, time.Now())
		if !ok {
			return
		}
		suppressed = n
	}
	attrs := make([]slog.Attr, 0, len(args)/2+2)
	attrs = append(attrs, slog.String("from", l.name))
	attrs = appendArgs(appendArgs(attrs, l.args), args)
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", suppressed))
	}
	l.to.LogAttrs(ctx, to, msg, attrs...)
}

// slogLevel maps levels. An election is news to an operator only through our own
// line about it, so the library's informational lines are for debugging.
func slogLevel(level hclog.Level) slog.Level {
	switch level {
	case hclog.Warn, hclog.Error:
		return slog.LevelWarn
	case hclog.Info:
		return slog.LevelDebug
	default:
		return slog.LevelDebug - 4
	}
}

// taken are the keys of a line that the library uses for something else: a candidate is
// "from" a node, a peer was not heard of for some "time". A key that is there twice is
// read in as many ways as there are readers.
var taken = map[string]bool{
	slog.TimeKey: true, slog.LevelKey: true, slog.MessageKey: true, slog.SourceKey: true,
	"name": true, "node": true, "shard": true, "from": true, "suppressed": true,
}

func appendArgs(attrs []slog.Attr, args []any) []slog.Attr {
	for len(args) >= 2 {
		key := fmt.Sprint(args[0])
		if taken[key] {
			key = "raft-" + key
		}
		attrs = append(attrs, slog.String(key, format(args[1])))
		args = args[2:]
	}
	if len(args) == 1 {
		attrs = append(attrs, slog.String("extra", format(args[0])))
	}
	return attrs
}

func format(v any) string {
	if f, ok := v.(hclog.Format); ok && len(f) > 0 {
		if pattern, ok := f[0].(string); ok {
			return fmt.Sprintf(pattern, f[1:]...)
		}
	}
	return fmt.Sprint(v)
}

func (l *raftLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLogger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *raftLogger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *raftLogger) enabled(level hclog.Level) bool {
	return l.to.Enabled(context.Background(), slogLevel(level))
}

func (l *raftLogger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l *raftLogger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l *raftLogger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l *raftLogger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l *raftLogger) IsError() bool { return l.enabled(hclog.Error) }

func (l *raftLogger) ImpliedArgs() []any { return l.args }

func (l *raftLogger) With(args ...any) hclog.Logger {
	out := *l
	out.args = append(append([]any(nil), l.args...), args...)
	return &out
}

func (l *raftLogger) Name() string { return l.name }

func (l *raftLogger) Named(name string) hclog.Logger { return l.ResetNamed(l.name + "." + name) }

func (l *raftLogger) ResetNamed(name string) hclog.Logger {
	out := *l
	out.name = name
	return &out
}

// SetLevel does nothing: the slog handler decides.
func (l *raftLogger) SetLevel(hclog.Level) {}

func (l *raftLogger) GetLevel() hclog.Level {
	for _, level := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Warn} {
		if l.enabled(level) {
			return level
		}
	}
	return hclog.Off
}

func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(nil), "", 0)
}

func (l *raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{l} }

// lineWriter logs each write as a line.
type lineWriter struct{ to *raftLogger }

func (w lineWriter) Write(p []byte) (int, error) {
	w.to.Info(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
