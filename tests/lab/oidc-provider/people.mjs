// The people of the lab. Tests that must not meet each other take people of their own: alice-7 is like alice in all but
// her name.
import people from './people.json' with { type: 'json' };

/** The account of the person with this name; undefined when there is none. */
export function account(name) {
  const like = String(name).replace(/-\d+$/, '');
  return Object.hasOwn(people, like) ? people[like] : undefined;
}
