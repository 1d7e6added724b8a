// Light, dark or as the system has it. Set before anything is drawn, so that nothing flashes.
const KEPT = "ldm.theme";

export const theme = () => document.documentElement.dataset.theme ?? (systemIsDark() ? "dark" : "light");

const systemIsDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

export function toggleTheme() {
  const next = theme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem(KEPT, next);
}

const kept = localStorage.getItem(KEPT);
if (kept) document.documentElement.dataset.theme = kept;
