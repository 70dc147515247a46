//go:build !race

package raftlog

const raceDetector = false
