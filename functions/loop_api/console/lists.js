// @ts-check
/** Owns lists that are read page by page, newest first, and again and again from their beginning. */

import { ApiError } from "./api.js";
import { h } from "./dom.js";
import { tell } from "./notices.js";
import { nothing } from "./parts.js";

/**
 * @template Item
 * @typedef {{items: Item[], nextCursor: string | null, isExtended?: boolean, isReading?: boolean}} List
 */

/**
 * What is shown when the first page has been read again: with what the user has fetched beyond it.
 *
 * @template Item
 * @param {List<Item>} fresh
 * @param {List<Item>} current
 * @param {(item: Item) => [string, string | number]} place When an item was made, and its id: lists are in this order.
 * @returns {List<Item>}
 */
export function merged(fresh, current, place) {
  if (!current.isExtended || fresh.nextCursor === null) return { ...fresh, isReading: current.isReading };
  const last = fresh.items.at(-1);
  if (last === undefined) return current; // looked far, found none: what was found further back is still there
  const older = current.items.filter((item) => comesAfter(place(item), place(last)));
  const isGap = older.length > 0 && older.length === current.items.length;
  return isGap ? fresh : { ...current, items: [...fresh.items, ...older] };
}

/**
 * @param {[string, string | number]} one
 * @param {[string, string | number]} other
 */
function comesAfter([at, id], [otherAt, otherId]) {
  return at < otherAt || (at === otherAt && id < otherId);
}

/**
 * The button that fetches the next page, where there is one; what is said where a list is empty.
 *
 * @template Item
 * @param {List<Item>} list
 * @param {(cursor: string) => Promise<List<Item>>} load
 * @param {(change: (list: List<Item>) => List<Item>) => void} update Change the list that is shown.
 * @param {string} empty
 */
export function listEnd(list, load, update, empty) {
  const cursor = list.nextCursor;
  return [
    list.items.length === 0 && nothing(cursor === null ? empty : "None among these, look further back."),
    cursor !== null &&
      h(
        "p",
        { class: "older" },
        h(
          "button",
          {
            type: "button",
            "aria-disabled": list.isReading ? "true" : null,
            onclick: () => list.isReading || fetchOlder(cursor, load, update),
          },
          "Older",
        ),
      ),
  ];
}

/**
 * @template Item
 * @param {string} cursor
 * @param {(cursor: string) => Promise<List<Item>>} load
 * @param {(change: (list: List<Item>) => List<Item>) => void} update
 */
async function fetchOlder(cursor, load, update) {
  update((list) => ({ ...list, isReading: true }));
  try {
    const page = await load(cursor);
    update((list) =>
      list.nextCursor === cursor
        ? { items: [...list.items, ...page.items], nextCursor: page.nextCursor, isExtended: true }
        : { ...list, isReading: false },
    );
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    tell("failed", "Older ones could not be read: ", error.message);
    update((list) => ({ ...list, isReading: false }));
  }
}
