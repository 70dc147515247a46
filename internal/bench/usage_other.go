//go:build !unix

package bench

import "time"

// usage is what this process has used so far; not measured here.
type usage struct{ processor time.Duration }

func usageNow() usage { return usage{} }
