package bench

import "context"

// Driver connects the generator with a database. Its methods may be called from
// several goroutines.
type Driver interface {
	// Name is for reports.
	Name() string
	// Session gives what one client uses. It may connect.
	Session(ctx context.Context) (Session, error)
	// Outcome puts an error of a Session into one of a few classes: for writes
	// "not-applied" or "unknown", for reads "read".
	Outcome(err error) string
}

// Session is one client's way to the database, used by one goroutine at a time.
// Each operation must return within a bounded time even if nobody answers, and
// retries nothing that the generator would not want to know of.
type Session interface {
	// Put writes a key and returns when the write is acknowledged.
	Put(ctx context.Context, key string, value []byte) error
	// Get reads a key, linearizably unless stale will do.
	Get(ctx context.Context, key string, stale bool) (found bool, err error)
	// Scan reads up to limit items from start on, in order.
	Scan(ctx context.Context, start string, limit int) (items int, err error)
	// Close ends the session.
	Close() error
}
