package store

import (
	"errors"
	"fmt"
	"io"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/store/engine"
)

// closeWith closes c and joins its error to err.
func closeWith(c io.Closer, err error) error {
	return errors.Join(err, c.Close())
}

// isCorrupt reports whether err means that stored data is damaged.
func isCorrupt(err error) bool {
	return errors.Is(err, errChecksum) || errors.Is(err, engine.ErrCorrupt)
}

// asError gives err the code that crosses packages: corrupt for damaged data,
// internal for other failures of the storage.
func asError(outcome kv.Outcome, format string, err error) error {
	code := kv.CodeInternal
	switch {
	case isCorrupt(err):
		code = kv.CodeCorrupt
	case errors.Is(err, ErrClosed):
		code = kv.CodeNoReplica
	}
	return &kv.Error{Code: code, Outcome: outcome, Detail: fmt.Sprintf(format+": %v", err), Cause: err}
}
