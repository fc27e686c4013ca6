package main

import (
	"fmt"
	"strings"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// Uploads are one case: what is sent, and how.
type uploads struct {
	HTTP2   bool
	Length  bool // known beforehand; else HTTP/1.1 sends it chunked
	Size    int64
	AtOnce  int
	Bound   int64 // Auth.MaxBody
	Paced   bool  // 1 Gbit/s
	Refused bool  // once, after its last byte; the base sends it twice
}

// cases are all of them, in the order of the tables.
func cases() (all []uploads) {
	for _, atOnce := range []int{1, 64} {
		for _, how := range []uploads{{}, {Length: true}, {HTTP2: true}, {HTTP2: true, Length: true}} {
			for _, size := range []int64{kib, 64 * kib, mib, 4 * mib, 16 * mib, 64 * mib} {
				if atOnce == 1 || size <= 4*mib {
					how.Size, how.AtOnce, how.Bound = size, atOnce, 64*mib
					all = append(all, how)
				}
			}
		}
	}
	for _, http2 := range []bool{false, true} {
		all = append(all,
			uploads{HTTP2: http2, Size: 512 * mib, AtOnce: 1, Bound: 4 * mib},
			uploads{HTTP2: http2, Size: 64 * mib, AtOnce: 1, Bound: 64 * mib, Paced: true},
			uploads{HTTP2: http2, Size: 64 * mib, AtOnce: 1, Bound: 4 * mib, Paced: true},
			uploads{HTTP2: http2, Size: 16 * mib, AtOnce: 1, Bound: 64 * mib, Refused: true},
		)
	}
	return all
}

func (u uploads) name() string { return u.group() + ": " + u.column() }

// group is the table that the case stands in.
func (u uploads) group() string {
	if u.special() {
		return "Past a bound or paced or refused"
	}
	s := u.protocol()
	if u.AtOnce > 1 {
		s += fmt.Sprintf(" %d at once", u.AtOnce)
	} else {
		s += " one after another"
	}
	return s
}

func (u uploads) special() bool { return u.Paced || u.Refused || u.Bound < u.Size }

func (u uploads) protocol() string {
	switch {
	case u.HTTP2 && u.Length:
		return "HTTP/2 with a length"
	case u.HTTP2:
		return "HTTP/2"
	case u.Length:
		return "HTTP/1.1 with a length"
	}
	return "HTTP/1.1 chunked"
}

func (u uploads) column() string {
	if !u.special() {
		return unit(u.Size)
	}
	s := []string{u.protocol(), unit(u.Size)}
	if u.Bound < u.Size {
		s = append(s, "past "+unit(u.Bound))
	}
	if u.Paced {
		s = append(s, "at 1 Gbit/s")
	}
	if u.Refused {
		s = append(s, "refused once")
	}
	return strings.Join(s, " ")
}

// batch is how many uploads a turn has.
func (u uploads) batch(quick bool) int {
	bytes := int64(128 * mib)
	if quick {
		bytes = mib
	}
	if u.Paced {
		bytes = u.Size
	}
	return max(u.AtOnce, int(min(4000, bytes/u.Size)), 1)
}

func unit(n int64) string {
	if n < mib {
		return fmt.Sprint(n/kib, " KiB")
	}
	return fmt.Sprint(n/mib, " MiB")
}
