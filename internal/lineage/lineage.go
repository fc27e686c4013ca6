// Package lineage tells which of two records is the newest: the one that a process
// knows, or the one that the store has.
//
// A record counts on from the record that it follows, under the lock of the store. So
// the greater generation is the newer record, as long as each process reads what it
// replaces. A login and a logout replace what they find. Until they are saved, their
// generation is only a time of day of one process. Therefore they have a name, which
// all that follows inherits: it tells descendants and strangers apart, whatever the
// clocks say.
package lineage

// A Record is what places a stored record among the others of its key.
type Record struct {
	Generation uint64 // greater than that of the record before; zero: there is none
	Login      string // names the login or logout that it descends from; empty: none, or one of a release that names none
	Ended      bool   // it has no token: the refresh token was refused, or the user has logged out
	Lost       int64  // when a process first saved again what the store had lost, in Unix milliseconds; zero: none has
}

// An Outcome is what became of saving a record.
type Outcome int

// The outcomes.
const (
	Saved   Outcome = iota // the store has it, or had it
	Untried                // it is to be saved
	Refused                // each attempt replaced nothing
	Unknown                // an attempt may have saved it, or may still do so
)

// A Known record is the newest that a process knows, saved or pending.
type Known struct {
	Record
	Outcome Outcome

	// Spent says that it has the same refresh token as the record before.
	Spent bool

	// Begins says that it is a login or a logout itself, and is pending. Then the following count.
	Begins  bool
	Over    string // the login that it replaces, as far as the process knows
	Awaited bool   // Set or Forget has not returned: it must not be dropped
}

// Tolerance is by how many milliseconds clocks may differ.
const Tolerance = 10_000

// Doubt is for how many milliseconds a record that was saved again, because the store had
// lost it, may not be the newest: all processes look at the store within this time.
const Doubt = 45_000

// Doubtful reports whether another process may know a newer record, which the store has
// lost. A moment far ahead says nothing: it comes from a clock that is wrong.
func (r Record) Doubtful(now int64) bool { return max(r.Lost-now, now-r.Lost) < Doubt }

// Misses reports whether the store has lost k, which is newer, or what k has followed. What was refused
// has never been in the store, and so nobody has gone on from it.
func (k Known) Misses(stored Record) bool {
	return k.Outcome == Saved || k.Outcome != Refused && !k.Begins && k.Generation > stored.Generation+1
}

// SavedAgain returns k as it is to be saved because the store has lost it. With the refresh token of the
// record before, k stands no higher than that: another process may know what has followed it.
func (k Known) SavedAgain(now int64) Known {
	if k.Spent {
		k.Generation--
	}
	k.Outcome, k.Spent, k.Lost = Untried, false, now
	return k
}

// Newest returns the generation under which k is to be saved, because k is newer than
// what the store has. Zero means that the store has the newest, and nothing is to
// be saved.
//
//	k             the store has      k is the newest if
//	not Begins    another login      its generation is greater
//	or Begins     its own login      its generation is greater, or
//	                                 it is as great, and pending, and the store tells of a refusal of
//	                                 the refresh token that k has exchanged: k is not Ended nor Spent
//
//	Begins        the store has      k Awaited                      k left over
//	              nothing            yes                            yes
//	              no login           yes, unless Unknown and        its time is later
//	                                 of a lesser generation
//	              the login Over     yes                            yes
//	              another login      yes                            its time is later
//
// Its time is later if its generation is greater by more than Tolerance: the generation of a login is
// a time. One that is left over yields to a login of about the same time, because its own Set has
// returned an error, and that of the other may have returned nil. One that is awaited yields to none but
// its own descendants: the other login may have been left over for long.
func (k Known) Newest(stored Record) uint64 {
	newest := k.Generation > stored.Generation
	switch {
	case k.Begins && k.Login != stored.Login && stored.Generation > 0:
		newest = k.replaces(stored)
	case k.Generation == stored.Generation && k.Outcome != Saved && k.Login == stored.Login:
		newest = stored.Ended && !k.Ended && !k.Spent
	}
	if !newest {
		return 0
	}
	return max(k.Generation, stored.Generation+1)
}

// replaces reports whether a pending login or logout replaces a record that does not
// descend from it by name.
func (k Known) replaces(stored Record) bool {
	switch {
	case k.Awaited && stored.Login == "": // a release that names no logins may have gone on from k
		return k.Outcome != Unknown || k.Generation >= stored.Generation
	case k.Awaited, stored.Login == k.Over && k.Over != "":
		return true
	}
	return k.Generation > stored.Generation+Tolerance
}

// Above returns k as it is to be saved under the lock, where it is the newest. A doubt begins now,
// however long ago the loss was noticed, and ends when that of others does who have noticed the same.
func (k Known) Above(stored Record, now int64) Known {
	k.Generation, k.Over = k.Newest(stored), stored.Login
	switch {
	case k.Lost == 0:
	case stored.Doubtful(now):
		k.Lost = stored.Lost
	case k.Lost != stored.Lost:
		k.Lost = now
	}
	return k
}
