package peer

import (
	"sync"
	"time"
)

// toldMax bounds the addresses that are remembered.
const toldMax = 64

// told keeps what calls by address have logged, so that who tries again and again is
// told of the same refusal every failureLogEvery only.
type told struct {
	mu   sync.Mutex
	last map[string]toldLine // by address
}

type toldLine struct {
	text string
	at   int64 // clock reading
}

// warn logs that a call by address was refused, if that is news. That nobody is
// there is the caller's to tell.
func (l *told) warn(t *TCP, address string, err error) {
	reason := reasonOf(err)
	if reason == "malformed" || reason == refuseSelf.String() || !l.news(address, err.Error(), t.clock()) {
		return
	}
	t.log.Warn("refused", "address", address, "reason", reason, "err", err)
}

func (l *told) news(address, text string, now int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, ok := l.last[address]; ok && was.text == text && time.Duration(now-was.at) < failureLogEvery {
		return false
	}
	if l.last == nil || len(l.last) >= toldMax {
		l.last = make(map[string]toldLine)
	}
	l.last[address] = toldLine{text, now}
	return true
}
