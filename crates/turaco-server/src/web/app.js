// The page of `turaco serve`. Everything goes through the public interface; each part has a file of its own.

import { $, look } from "./server.js";
import "./talk.js";
import "./captions.js";
import "./files.js";
import "./voices.js";

$("key").value = sessionStorage.getItem("key") ?? "";
$("key").addEventListener("change", () => {
  sessionStorage.setItem("key", $("key").value);
  look();
});
look();
