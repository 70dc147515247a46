//go:build !planted

package planted

// On reports whether a fault is planted: never.
func On(Fault) bool { return false }
