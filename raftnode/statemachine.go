package raftnode

import (
	"errors"
	"io"

	"github.com/quorate-db/quorate/kv"
)

// ErrGone is what a machine's Apply gives whose state was taken away on purpose,
// before its replica is destroyed: by another shard's that has absorbed it. The
// replica stops, and nothing is wrong. It also says that no command is or will be
// applied, on any replica, that was proposed and has no answer: the shard was frozen
// first.
var ErrGone = errors.New("the replica's state is no longer its own")

// StateMachine is what a replica applies its log to. Apply, Image and
// Staged.Install are called from one goroutine at a time; Applied and Stage may be
// called from any, and Stage takes as long as its source.
type StateMachine interface {
	// Apply applies entries in order of index, their effects and the new applied
	// index as one atomic batch, and answers each. Entries at or below the
	// applied index are skipped with an empty EntryResult. It reads no clock, no
	// randomness and no network. An error means that the machine's storage has
	// failed: nothing is known to be applied and the replica must stop. Input
	// never makes it panic or fail; a bad command is answered as such.
	Apply(entries []kv.Entry) ([]kv.EntryResult, error)

	// Applied tells how far the machine has come. It must be cheap.
	Applied() kv.Applied

	// Flush returns when everything applied before the call is on disk. A
	// machine that lives in memory returns at once.
	Flush() error

	// Image gives a consistent view of the state for a snapshot. It must be
	// cheap: no copy. Apply may run while the image is written.
	Image() (Image, error)

	// Stage reads an image to the end of r and checks it completely. Nothing of it is
	// visible before Staged.Install.
	Stage(r io.Reader) (Staged, error)
}

// Staged is an image beside the state of a machine, ready to replace it.
type Staged interface {
	// Applied tells where in the log the image stands.
	Applied() kv.Applied
	// Install replaces the machine's whole state, and is durable on return. It leaves the
	// old state alone on error. An image at or below the applied index is refused
	// (DESIGN §9 rule 4).
	Install() error
	// Close forgets what was not installed. Closing again is no error.
	Close() error
}

// Image is a state at one applied index.
type Image interface {
	// Applied tells where in the log the image stands.
	Applied() kv.Applied
	// WriteTo writes what StateMachine.Stage reads. It may be called once.
	WriteTo(w io.Writer) (int64, error)
	// Close releases the image.
	Close() error
}
