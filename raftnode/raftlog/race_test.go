//go:build race

package raftlog

// raceDetector: everything takes several times as long.
const raceDetector = true
