// Package lineage tells which of two records is the newest: the one that a process
// knows, or the one that the store has.
//
// Under the lock of the store, a new record counts on from the record that it follows.
// So the record with the greater generation is newer, as long as each process reads the
// record that it replaces. A login or a logout replaces whatever it finds. Until it is
// saved, its generation is only the time of day in one process. Therefore it has a
// name, which all its followers inherit: the name distinguishes descendants from
// strangers, whatever the clocks say.
package lineage

// A Record is the position of a stored record among the others of its key.
type Record struct {
	Generation uint64 // greater than that of the record before; zero: there is no record
	Login      string // names the login or logout that it descends from; empty: there is none, or its release names none
	Ended      bool   // it has no token: the refresh token was refused, or the user has logged out
	Lost       int64  // when a process first saved again what the store had lost, in Unix milliseconds; zero: none has
}

// An Outcome is the result of saving a record.
type Outcome int

// The outcomes.
const (
	Saved   Outcome = iota // the store has it, or had it
	Untried                // it is to be saved
	Refused                // each attempt returned without replacing the value
	Unknown                // an attempt may have saved it, or may still do so
)

// A Known record is the newest that a process knows, saved or pending.
type Known struct {
	Record
	Outcome Outcome

	// Spent reports that it has the same refresh token as the record before.
	Spent bool

	// Begins reports that it is itself a login or a logout, and pending. Only then the
	// next fields count.
	Begins  bool
	Over    string // the login that it replaces, as far as the process knows
	Awaited bool   // Set or Forget has not returned, so it must not be dropped
}

// Tolerance is how far clocks may differ, in milliseconds.
const Tolerance = 10_000

// Doubt is how long, in milliseconds, a record is doubtful that was saved again because
// the store had lost it: a newer one may exist. All processes look at the store within
// this time.
const Doubt = 45_000

// Doubtful reports whether another process may know a newer record, which the store has
// lost. A Lost time far ahead does not count, because it comes from a wrong clock.
func (r Record) Doubtful(now int64) bool { return max(r.Lost-now, now-r.Lost) < Doubt }

// Misses reports whether the store has lost k, which is newer, or a record that k follows.
// A record whose save was refused has never been in the store, so no process has gone on
// from it.
func (k Known) Misses(stored Record) bool {
	return k.Outcome == Saved || k.Outcome != Refused && !k.Begins && k.Generation > stored.Generation+1
}

// SavedAgain returns k in the form to save after the store has lost it. If k has the
// refresh token of the record before, it gets that record's generation, because another
// process may know a follower of that.
func (k Known) SavedAgain(now int64) Known {
	if k.Spent {
		k.Generation--
	}
	k.Outcome, k.Spent, k.Lost = Untried, false, now
	return k
}

// Newest returns the generation under which k is to be saved, because k is newer than
// the record in the store. Zero means that the store has the newest record, and nothing
// is to be saved.
//
//	k             the store has      k is the newest if
//	not Begins    another login      its generation is greater
//	or Begins     its own login      its generation is greater, or
//	                                 it is as great, and pending, and the store notes a refusal of
//	                                 the refresh token that k has exchanged: k is not Ended nor Spent
//
//	Begins        the store has      k Awaited                      k left over
//	              nothing            yes                            yes
//	              no login           yes, unless Unknown and        its time is later
//	                                 of a lesser generation
//	              the login Over     yes                            yes
//	              another login      yes                            its time is later
//
// The generation of a login is a time. "Its time is later" means that its generation is
// greater by more than Tolerance. A login that is left over yields to another one of
// about the same time, because its own Set has returned an error, while the Set of the
// other may have returned nil. An awaited login yields only to its own descendants,
// because the other login may be a left-over one.
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

// replaces reports whether a pending login or logout replaces a record that, by its
// name, does not descend from it.
func (k Known) replaces(stored Record) bool {
	switch {
	case k.Awaited && stored.Login == "": // a release that names no logins may have continued from k
		return k.Outcome != Unknown || k.Generation >= stored.Generation
	case k.Awaited, stored.Login == k.Over && k.Over != "":
		return true
	}
	return k.Generation > stored.Generation+Tolerance
}

// Above returns k in the form to save under the lock, where it is the newest. A doubt
// begins with the save, however long ago a process noticed the loss. If another process
// has noticed the same loss, the doubt ends at the same time as its doubt.
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
