package localcluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestPollSaysWhatWasWrong: when time is up while the question is under way, that is no
// reason.
func TestPollSaysWhatWasWrong(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	err := poll(ctx, time.Millisecond, func(ctx context.Context) error {
		if asked++; asked < 3 {
			return errors.New("no leader")
		}
		cancel()
		return ctx.Err()
	}, func() error { return nil })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no leader") {
		t.Errorf("%v", err)
	}
	if err := poll(ctx, time.Millisecond, func(ctx context.Context) error { return ctx.Err() }, func() error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("it had ended before: %v", err)
	}
	died := errors.New("died")
	if err := poll(t.Context(), time.Millisecond, func(context.Context) error { return errors.New("not yet") }, func() error { return died }); !errors.Is(err, died) {
		t.Errorf("%v", err)
	}
}
