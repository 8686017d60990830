// A colour for each model by its name: the same one as in every report, as hangtag/page/series.py chooses it.

const SERIES = 10; // colours of the style sheet
const SALT = "354";

/** Return a colour for each of these names; no two of up to ten names have the same. */
export function giveColours(names) {
  const taken = new Set();
  return names.map((name) => {
    let number = crc32(SALT + name) % SERIES;
    while (taken.has(number)) number = (number + 1) % SERIES;
    taken.add(number);
    if (taken.size === SERIES) taken.clear();
    return `var(--series-${number})`;
  });
}

/** As Python's zlib.crc32 computes it of a text in UTF-8. */
function crc32(text) {
  let sum = ~0;
  for (const byte of new TextEncoder().encode(text)) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}
